"""Checks that a bundle runs right on this machine, and measures how fast.

The delegate receipt: what ran, which ops it took and left, how far its answers lie from those at export and from those
of the CPU without any delegate, how often it is right, how fast it is, and a verdict.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgebcnn.bundle import Bundle, Precision
from edgebcnn.device.auto import Considered
from edgebcnn.device.classifier import preferred_precision
from edgebcnn.device.delegate import STRICT, Policy, check_cores, try_delegate
from edgebcnn.device.machine import Machine, inspect_machine
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import Difference, difference, read_golden
from edgebcnn.device.trial import Trial, try_model
from edgebcnn.progress import Reporter, Silent
from edgebcnn.report.agreement import Proportion

SCHEMA_VERSION = 1

_SILENT = Silent()


@dataclass(frozen=True)
class CheckReport:
    """What checking a bundle found.

    Attributes:
        bundle: The bundle.
        profile: The device profile that was asked for.
        trial: What ran, here and now.
        at_export: Its outputs for the golden photos against those of the same file at export.
        on_cpu: The same against the CPU's here, without any delegate.
        accuracy: Share of the golden photos, without the hard ones, that it gets right.
        agreement: Share of the same photos on which it agrees with the full model.
        machine: Where that was.
        considered: What `--device auto` chose among, the fastest first; nothing where the user chose.
        problems: Why the bundle should not run so, a sentence each; none where it may.
    """

    bundle: Bundle
    profile: DeviceProfile
    trial: Trial
    at_export: Difference
    on_cpu: Difference
    accuracy: Proportion
    agreement: Proportion
    machine: Machine
    considered: tuple[Considered, ...]
    problems: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.problems:
            return "; ".join(self.problems)
        on_cpu_instead = ", on the CPU instead of the accelerator of the profile" if self.trial.receipt.fallback else ""
        return f"passed: predicts on this device what it predicted at export{on_cpu_instead}"

    @property
    def _said_of_profile(self) -> str:
        if self.considered:
            return f"the fastest that is right of {len(self.considered)}"
        return self.profile.said_of_measurements

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        trial = self.trial
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle": {"name": self.bundle.manifest.name, "digest": self.bundle.digest},
            "profile": self.profile.name,
            "receipt": trial.receipt.as_json(),
            "golden": {"at_export": self.at_export.as_json(), "on_cpu": self.on_cpu.as_json()},
            "accuracy": self.accuracy.as_json(),
            "agreement": self.agreement.as_json(),
            "load_ms": round(trial.load_ms, 1),
            "latency_ms": {
                "n": len(trial.latencies_ms),
                **{f"p{100 * q:.0f}": round(trial.latency_ms(q), 3) for q in (0.5, 0.95, 0.99)},
            },
            "photos_per_s": round(trial.photos_per_s, 2),
            "memory_mb": round(trial.memory_mb, 1),
            "scores": None if self.bundle.manifest.scores is None else self.bundle.manifest.scores.model_dump(),
            "machine": asdict(self.machine),
            "considered": [one.model_dump(mode="json") for one in self.considered],
            "verdict": {"passed": not self.problems, "problems": list(self.problems)},
        }

    def __str__(self) -> str:
        """One line a subject, for a terminal."""
        trial, receipt = self.trial, self.trial.receipt
        timed = f"{len(trial.latencies_ms)} photos, read-back included"
        lines = {
            "bundle": f"{self.bundle.manifest.name} · {len(self.bundle.labels)} products · all checksums match",
            "machine": str(self.machine),
            "profile": f"{self.profile.name} ({self._said_of_profile})",
            "scores": str(self.bundle.manifest.scores or "not calibrated: export the run again with this version"),
            "delegate": str(receipt),
            "ops left": f"{left} run outside {self.profile.processor}" if (left := receipt.left_in_words) else "none",
            "at export": str(self.at_export),
            "CPU here": str(self.on_cpu),
            "accuracy": str(self.accuracy),
            "agreement": f"{self.agreement} with the full model",
            "load": f"{trial.load_ms:.0f} ms to the first prediction",
            "latency": " · ".join(f"{trial.latency_ms(q):.2f} ms p{100 * q:.0f}" for q in (0.5, 0.95, 0.99))
            + f" ({timed})",
            "speed": f"{trial.photos_per_s:.1f} photos/s",
            "memory": f"{trial.memory_mb:.0f} MB peak",
            **{f"choice {rank}": str(one) for rank, one in enumerate(self.considered, start=1)},
            "verdict": self.verdict,
        }
        return "\n".join(f"{subject:<10}{figures}" for subject, figures in lines.items())


def check_bundle(
    bundle: Bundle,
    profile: DeviceProfile,
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    policy: Policy = STRICT,
    considered: tuple[Considered, ...] = (),
    reporter: Reporter = _SILENT,
) -> CheckReport:
    """Replays the golden photos of an opened bundle as a profile says and on the CPU alone, and times it.

    Args:
        bundle: The bundle; opening it has checked every byte.
        profile: Runtime, delegate and limits.
        precision: Which model; by default the profile's.
        threads: CPU threads; by default the profile's.
        policy: What may pass.
        considered: For the report: what the profile was chosen among.
        reporter: Told what is being done.

    Raises:
        DeviceError: the delegate is missing or crashed, or there are fewer cores than threads.
        BundleError: there is no model of that precision, or there are no golden photos.
    """
    check_cores(profile, threads)
    chosen = precision or preferred_precision(bundle, profile)
    bundle.model_path(chosen)  # says how to get a model that is not there
    golden = read_golden(bundle, chosen)
    with reporter.progress(f"Replaying {len(golden.pixels)} golden photos", 2) as advance:
        judged = try_delegate(bundle, profile, golden, precision=chosen, threads=threads, policy=policy)
        advance(1)
        plain = judged.profile.model_copy(update={"delegate": "none", "gpu": None, "external": None})
        on_cpu = try_model(bundle, plain, precision=chosen, threads=threads, calls=0)
        advance(1)
    machine = inspect_machine()
    problems = (judged.problem, *_over_limits(profile, judged.trial, machine))
    return CheckReport(
        bundle=bundle,
        profile=profile,
        trial=judged.trial,
        at_export=difference(judged.trial.outputs, golden.edge),
        on_cpu=difference(judged.trial.outputs, on_cpu.outputs),
        accuracy=golden.accuracy(judged.trial.outputs),
        agreement=golden.agreement(judged.trial.outputs),
        machine=machine,
        considered=considered,
        problems=tuple(problem for problem in problems if problem),
    )


def _over_limits(profile: DeviceProfile, trial: Trial, machine: Machine) -> list[str]:
    limits, problems = profile.limits, []
    if limits.memory_mb is not None and trial.memory_mb > limits.memory_mb:
        problems.append(
            f"it takes {trial.memory_mb:.0f} MB, more than the {limits.memory_mb:g} MB of the profile {profile.name}: "
            "use a smaller model or precision"
        )
    if limits.temperature_c is not None and (machine.temperature_c or 0) > limits.temperature_c:
        problems.append(
            f"the board is at {machine.temperature_c:.0f} °C, over the {limits.temperature_c:g} °C of the profile "
            f"{profile.name}, and slows itself down: cool it and check again"
        )
    return problems
