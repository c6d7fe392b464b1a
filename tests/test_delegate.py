"""A delegate is taken only where it is there, takes the whole model and computes what the model did at export.

The delegates are real shared libraries, made from `stub_delegate.c`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import Bundle, Precision
from edgebcnn.device.delegate import Judgement, Policy, open_classifier, try_delegate
from edgebcnn.device.profile import DeviceProfile, load_profile
from edgebcnn.device.runtime import check_threads, load_runtime, usable_cores
from edgebcnn.device.selftest import difference, read_golden
from edgebcnn.device.trial import try_model
from edgebcnn.errors import BundleError, DeviceError
from tests.stub_delegate import WHOLE, compiled, using
from tests.tiny_bundle import LABELS, coloured, make_tiny_bundle

FALLBACK = Policy(allow_cpu_fallback=True)

Stub = Callable[..., DeviceProfile]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """Compiles a delegate, and gives the profile that uses it."""
    return partial(compiled, tmp_path_factory.mktemp("stubs"))


def judged(bundle: Bundle, profile: DeviceProfile, precision: Precision = "float32", **policy: bool) -> Judgement:
    golden = read_golden(bundle, precision)
    return try_delegate(bundle, profile, golden, precision=precision, policy=Policy(**policy), calls=0)


def refusal(bundle: Bundle, profile: DeviceProfile) -> str:
    with pytest.raises(DeviceError) as caught:
        load_runtime(bundle.model_path("float32"), profile)
    return str(caught.value)


def test_a_delegate_that_works_takes_the_whole_model_and_names_a_products_colour(
    bundle: Bundle, stub: Stub, rng: np.random.Generator
) -> None:
    classifier = open_classifier(bundle, stub(WHOLE), policy=Policy(require_full_delegation=True))
    assert str(classifier.receipt).endswith("libstub.so · 1 thread · 3 of 3 ops · float32")
    assert classifier.receipt.fallback is None
    for label in LABELS:
        assert classifier.classify(coloured(label.name, rng)).label == label.name


def test_a_delegate_that_takes_nothing_is_refused(bundle: Bundle, stub: Stub) -> None:
    found = judged(bundle, stub())
    assert (found.trial.receipt.ops_taken, found.trial.receipt.ops_left) == (0, 3)
    assert found.problem is not None
    assert "libstub.so loads but takes none of the 3 ops of the float32 model" in found.problem


def test_a_delegate_that_takes_a_part_is_refused_with_the_ops_that_it_leaves(bundle: Bundle, stub: Stub) -> None:
    found = judged(bundle, stub("-DTAKES=1"), "int8")
    assert found.problem is not None
    assert "takes 1 of 5 ops of the int8 model and leaves 1 FULLY_CONNECTED, 1 MEAN, 1 QUANTIZE, 1 SOFTMAX" in (
        found.problem
    )
    assert "--allow-cpu-fallback" in found.problem


def test_the_cpu_completes_a_part_where_it_may_and_the_receipt_says_so(bundle: Bundle, stub: Stub) -> None:
    found = judged(bundle, stub("-DTAKES=1"), "int8", allow_cpu_fallback=True)
    assert found.problem is None
    assert (found.trial.receipt.delegate, found.trial.receipt.ops_taken) == ("libstub.so", 1)
    assert "leaves 1 FULLY_CONNECTED, 1 MEAN, 1 QUANTIZE, 1 SOFTMAX to it" in str(found.trial.receipt)


def test_a_delegate_that_computes_something_else_is_refused(bundle: Bundle, stub: Stub) -> None:
    found = judged(bundle, stub(WHOLE, "-DWRONG"))
    assert found.problem is not None
    assert "libstub.so does not compute what the model did at export (same product on 6 of 12 photos" in found.problem


def test_a_delegate_that_is_slightly_wrong_everywhere_is_refused(bundle: Bundle, stub: Stub) -> None:
    """It answers softmax where it took the mean alone: the right product every time, with another probability."""
    found = judged(bundle, stub("-DTAKES=1"))
    assert found.problem is not None
    assert "same product on 12 of 12 photos" in found.problem


def test_a_delegate_that_crashes_costs_a_sentence_and_not_the_process(bundle: Bundle, stub: Stub) -> None:
    with pytest.raises(DeviceError, match=r"libstub\.so ended its process by SIGABRT: use the profile cpu"):
        judged(bundle, stub(WHOLE, "-DCRASHES"))


def test_a_delegate_that_hangs_is_given_up(bundle: Bundle) -> None:
    profile = load_profile("cpu")
    with pytest.raises(DeviceError, match="XNNPACK gave no answer within 0 s"):
        try_model(bundle, profile, precision="float32", timeout_s=0.01)


def test_a_delegate_that_fails_while_it_runs_is_named(bundle: Bundle, stub: Stub) -> None:
    runtime = load_runtime(bundle.model_path("float32"), stub(WHOLE, "-DFAILS"))
    with pytest.raises(DeviceError, match=r"libstub\.so failed while it ran the model \(.*failed to invoke"):
        runtime.invoke(np.zeros(runtime.input.shape, runtime.input.dtype))


@pytest.mark.parametrize("flags", [["-DNO_DEVICE"], [WHOLE, "-DWRONG"]])
def test_the_cpu_takes_over_where_it_may_and_the_receipt_says_why(bundle: Bundle, stub: Stub, flags: list[str]) -> None:
    receipt = open_classifier(bundle, stub(*flags), policy=FALLBACK).receipt
    assert receipt.delegate == "XNNPACK"
    assert receipt.fallback is not None
    assert "libstub.so" in receipt.fallback
    assert f"CPU FALLBACK: {receipt.fallback}" in str(receipt)
    assert receipt.as_json()["fallback"] == receipt.fallback


def test_a_delegate_that_reports_a_failure_is_quoted(bundle: Bundle, stub: Stub) -> None:
    assert "loads but makes no delegate (no NPU is connected): check that its device is connected" in refusal(
        bundle, stub("-DNO_DEVICE")
    )


def test_a_library_that_is_not_there_is_named(bundle: Bundle) -> None:
    assert refusal(bundle, using("libgone.so.7")).startswith("libgone.so.7 is not there: install the vendor's package")


def test_a_library_that_needs_another_is_told_from_one_that_is_not_there(
    bundle: Bundle, stub: Stub, tmp_path: Path
) -> None:
    (tmp_path / "empty.c").touch()
    needed = stub(source=tmp_path / "empty.c").external
    assert needed is not None
    profile = stub("-Wl,--no-as-needed", needed.library)
    Path(needed.library).unlink()
    assert "does not load" in refusal(bundle, profile)
    assert "cannot open shared object file" in refusal(bundle, profile)


def test_a_file_that_is_no_library_is_named(bundle: Bundle, tmp_path: Path) -> None:
    library = tmp_path / "libtext.so"
    library.write_text("<html>not found</html>")
    assert f"{library} is not a shared library: download or copy it again" in refusal(bundle, using(library))


def test_a_library_for_another_processor_is_named(bundle: Bundle, stub: Stub) -> None:
    profile = stub()
    assert profile.external is not None
    library = Path(profile.external.library)
    header = bytearray(library.read_bytes())
    header[18:20] = (243).to_bytes(2, "little")
    library.unlink()  # never overwritten: it may be loaded
    library.write_bytes(header)
    assert f"{library} is for riscv64, and this is " in refusal(bundle, profile)


def test_a_library_that_is_no_delegate_is_named(bundle: Bundle, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("int tflite_plugin_destroy_delegate;")
    assert "is a library but no TFLite delegate (it has no tflite_plugin_create_delegate)" in refusal(
        bundle, stub(source=tmp_path / "other.c")
    )


def test_full_delegation_is_asked_of_xnnpack_too(bundle: Bundle) -> None:
    whole = Policy(require_full_delegation=True)
    cpu = load_profile("cpu")
    assert open_classifier(bundle, cpu, precision="float32", policy=whole).receipt.ops_left == 0
    with pytest.raises(DeviceError, match=r"XNNPACK takes \d of 5 ops of the int8 model and leaves .*QUANTIZE"):
        open_classifier(bundle, cpu, precision="int8", policy=whole)


def test_golden_photos_that_cannot_be_read_are_named(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    (copy / "golden.npz").write_bytes(b"no golden photos")
    with pytest.raises(BundleError, match=r"golden\.npz has no golden photos for float32"):
        read_golden(Bundle(copy, bundle.manifest, bundle.labels, bundle.digest), "float32")


def test_more_threads_than_cores_are_refused() -> None:
    cores = usable_cores()
    check_threads(cores, "--threads")
    with pytest.raises(DeviceError, match=rf"--threads asks for {cores + 1} threads.*give --threads {cores} or fewer"):
        check_threads(cores + 1, "--threads")


def test_rounding_is_told_from_nonsense() -> None:
    rng = np.random.default_rng(3)
    expected = rng.dirichlet(np.ones(5), 40).astype(np.float32)
    assert difference(expected, expected).is_rounding
    rounded = expected + rng.uniform(-6 / 256, 6 / 256, expected.shape).astype(np.float32)
    assert difference(rounded, expected).is_rounding
    one_far_off = expected.copy()
    one_far_off[0] = one_far_off[0][::-1]
    assert difference(one_far_off, expected).is_rounding
    shifted = np.roll(expected, 1, axis=1)
    assert not difference(shifted, expected).is_rounding
    undefined = np.full_like(expected, np.nan)
    assert not difference(undefined, expected).is_rounding
    assert difference(undefined, expected).as_json()["most_steps"] is None
