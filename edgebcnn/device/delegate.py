"""Decides whether a delegate may run a bundle on this machine.

A delegate that is missing, takes nothing, takes only a part, or computes something else is an error that names it, the
cause and the remedy. Only where a user allows it does the CPU take over, and every receipt then says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Precision
from edgebcnn.device.classifier import Classifier, Receipt, preferred_precision
from edgebcnn.device.profile import DEFAULT_PROFILE, DeviceProfile, load_profile
from edgebcnn.device.runtime import check_threads
from edgebcnn.device.selftest import Golden, GoldenAnswers, difference, read_golden
from edgebcnn.device.trial import TIMED_CALLS, Trial, try_model
from edgebcnn.errors import DeviceError


@dataclass(frozen=True)
class Policy:
    """What a user lets pass.

    Attributes:
        allow_cpu_fallback: The CPU may compute the ops that an accelerator leaves, or all of them where the accelerator
            is missing or wrong.
        require_full_delegation: No op may be left, by XNNPACK neither.
    """

    allow_cpu_fallback: bool = False
    require_full_delegation: bool = False


STRICT = Policy()


@dataclass(frozen=True)
class Judgement:
    """What came of trying a delegate.

    Attributes:
        trial: What it did; or what the CPU did in its place, and then the receipt says why.
        profile: With which that was.
        problem: Why a bundle must not run so, in one sentence; None where it may.
    """

    trial: Trial
    profile: DeviceProfile
    problem: str | None


def open_classifier(
    bundle: Bundle,
    profile: DeviceProfile,
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    policy: Policy = STRICT,
) -> Classifier:
    """Loads a bundle as a profile says; an accelerator has to replay the golden photos first.

    Args:
        bundle: The bundle.
        profile: Runtime and delegate.
        precision: Which model; by default the profile's.
        threads: CPU threads; by default the profile's.
        policy: What may pass.

    Raises:
        DeviceError: the delegate is missing, partial or wrong, or there are fewer cores than threads.
        BundleError: there is no model of that precision, or its file does not fit the manifest.
    """
    check_cores(profile, threads)
    chosen = precision or preferred_precision(bundle, profile)
    fallback, load = None, Classifier.from_bundle
    if profile.is_accelerator:
        golden = read_golden(bundle, chosen)
        judged = try_delegate(bundle, profile, golden, precision=chosen, threads=threads, policy=policy, calls=0)
        if judged.problem:
            raise DeviceError(judged.problem)
        profile, fallback = judged.profile, judged.trial.receipt.fallback
        load = Classifier.load_untried  # the golden photos were its trial
    classifier = load(bundle, precision=chosen, threads=threads, profile=profile, fallback=fallback)
    if problem := _left_ops(classifier.receipt, profile, policy):
        raise DeviceError(problem)
    return classifier


def try_delegate(
    bundle: Bundle,
    profile: DeviceProfile,
    golden: Golden,
    *,
    precision: Precision,
    threads: int | None = None,
    policy: Policy = STRICT,
    calls: int = TIMED_CALLS,
) -> Judgement:
    """Tries a bundle as a profile says, and on the CPU where that fails and the policy allows it.

    Raises:
        DeviceError: the delegate is missing, or its process crashed; there is nothing to judge.
        BundleError: there is no model of that precision, or its file does not fit the manifest.
    """
    may_fall_back = profile.is_accelerator and policy.allow_cpu_fallback
    try:
        trial = try_model(bundle, profile, precision=precision, threads=threads, calls=calls)
        unusable = _nothing_taken(trial.receipt, profile) or _wrong(trial, profile, golden)
    except DeviceError as error:
        if not may_fall_back:
            raise
        unusable = str(error)
    if unusable and may_fall_back:
        cpu = load_profile(DEFAULT_PROFILE)
        trial = try_model(bundle, cpu, precision=precision, threads=threads, calls=calls)
        return Judgement(_fallen_back(trial, unusable), cpu, _wrong(trial, cpu, golden))
    left = _left_ops(trial.receipt, profile, policy)
    if not unusable and may_fall_back and trial.receipt.left:
        trial = _fallen_back(trial, f"{profile.processor} leaves {trial.receipt.left_in_words} to it")
    return Judgement(trial, profile, unusable or left)


def check_cores(profile: DeviceProfile, threads: int | None) -> None:
    """Checks that there are cores for the threads that a command line (`threads`) or else a profile asks for.

    Raises:
        DeviceError: there are fewer.
    """
    check_threads(threads or profile.threads, "--threads" if threads else f"the device profile {profile.name}")


def _nothing_taken(receipt: Receipt, profile: DeviceProfile) -> str | None:
    if not profile.is_accelerator or receipt.ops_taken:
        return None
    return (
        f"{profile.processor} loads but takes none of the {receipt.ops_left} ops of the {receipt.precision} model: "
        "compile or export the model for it, or use the profile cpu"
    )


def why_wrong(
    outputs: NDArray[np.float32], golden: GoldenAnswers, *, receipt: Receipt, profile: DeviceProfile
) -> str | None:
    """Why answers `(n, classes)` to the golden photos are not what the model said at export; None where they are.

    Args:
        outputs: The answers.
        golden: Those at export.
        receipt: What gave them.
        profile: What was asked for.
    """
    found = difference(outputs, golden.edge)
    if found.is_rounding:
        return None
    who, remedy = f"{receipt.runtime} {receipt.version}", "install another version of it"
    if profile.is_accelerator and receipt.delegate not in (None, "XNNPACK"):
        who, remedy = profile.processor, "update its driver, or use the profile cpu"
    return f"{who} does not compute what the model did at export ({found}): {remedy}"


def _wrong(trial: Trial, profile: DeviceProfile, golden: Golden) -> str | None:
    return why_wrong(trial.outputs, golden, receipt=trial.receipt, profile=profile)


def _left_ops(receipt: Receipt, profile: DeviceProfile, policy: Policy) -> str | None:
    whole_is_asked = policy.require_full_delegation or (profile.is_accelerator and not policy.allow_cpu_fallback)
    if not receipt.left or not whole_is_asked:
        return None
    remedy = (
        "leave out --require-full-delegation"
        if policy.require_full_delegation
        else "let the CPU compute those with --allow-cpu-fallback"
    )
    return (
        f"{profile.processor} takes {receipt.ops_taken} of {receipt.ops_taken + receipt.ops_left} ops of the "
        f"{receipt.precision} model and leaves {receipt.left_in_words}: export a model that it takes whole, or {remedy}"
    )


def _fallen_back(trial: Trial, reason: str) -> Trial:
    return replace(trial, receipt=replace(trial.receipt, fallback=reason))
