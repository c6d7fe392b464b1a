"""`edgebcnn benchmark` measures candidates in turns, drops what is not right, and shows accuracy beside latency."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from benchmarks import device_overhead, loop
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import GOLDEN_NAME, REPORT_NAME, Bundle, write_bundle
from edgebcnn.cli import main
from edgebcnn.device.benchmark import BenchmarkReport, benchmark, candidates
from edgebcnn.device.profile import DeviceProfile, load_profile
from edgebcnn.device.runtime import usable_cores
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.preprocessing import Preprocessing
from tests.stub_delegate import WHOLE, compiled, using
from tests.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DeviceProfile]:
    folder = tmp_path_factory.mktemp("stubs")
    return {
        "slow": compiled(folder, WHOLE, "-DDELAY_MS=5"),
        "right": compiled(folder, WHOLE),
        "crashing": compiled(folder, WHOLE, "-DCRASHES"),
        "missing": using("libgone.so"),
    }


@pytest.fixture(scope="module")
def report(bundle: Bundle, planted: dict[str, DeviceProfile]) -> BenchmarkReport:
    return benchmark(bundle, list(planted.values()), rounds=2, calls=3)


def with_report(bundle: Bundle, path: Path, report: Any) -> Bundle:
    """The same bundle with a report of its export."""
    names = (GOLDEN_NAME, *(model.file for model in bundle.manifest.models.values()))
    files = {name: (bundle.path / name).read_bytes() for name in names}
    return write_bundle(path, bundle.manifest, bundle.labels, {**files, REPORT_NAME: json_bytes(report)})


def run(bundle: Bundle, *arguments: object) -> Result:
    quick = ["--device", "cpu", "--precision", "int8", "--threads", "1", "--rounds", "1", "--calls", "2"]
    return CliRunner().invoke(main, ["benchmark", "--bundle", str(bundle.path), *quick, *map(str, arguments)])


def test_the_fastest_comes_first_with_all_its_rounds(
    report: BenchmarkReport, planted: dict[str, DeviceProfile]
) -> None:
    assert [one.profile for one in report.measured] == [planted["right"], planted["slow"]]
    for one in report.measured:
        low, high = one.spread_ms
        assert [len(trial.latencies_ms) for trial in one.trials] == [3, 3]
        assert low <= one.latency_ms(0.5) <= high <= one.latency_ms(1)
        assert (one.golden.successes, one.golden.n) == (12, 12)
    assert report.measured[1].latency_ms(0.5) > 5
    assert report.measured[1].photos_per_s < 200


def test_what_is_not_right_is_dropped_with_its_reason(
    report: BenchmarkReport, planted: dict[str, DeviceProfile]
) -> None:
    reasons = {one.profile.processor: one.dropped or "" for one in report.dropped}
    assert "SIGABRT" in reasons[planted["crashing"].processor]
    assert "is not there" in reasons["libgone.so"]


def test_where_nothing_is_right_there_is_nothing_to_measure(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match=r"nothing here runs .* right \(.*libgone\.so is not there"):
        benchmark(bundle, [using("libgone.so")], rounds=2)


def test_candidates_are_all_combinations_and_an_accelerator_comes_once(bundle: Bundle) -> None:
    def named(found: Sequence[DeviceProfile]) -> list[tuple[str, str, int | None]]:
        return [(one.name, one.precision, one.threads) for one in found]

    cpu, npu = load_profile("cpu"), using("libgone.so")
    threads = list(range(1, min(2, usable_cores()) + 1))
    expected = [("cpu", "int8", count) for count in threads]
    assert named(candidates(bundle, profiles=[cpu], precisions=["int8"], threads=threads)) == expected
    assert named(candidates(bundle, profiles=[npu], threads=threads)) == [
        (npu.name, precision, npu.threads) for precision in ("int8", "float32")
    ]
    assert {one.precision for one in candidates(bundle)} == {"int8", "float32"}
    with pytest.raises(DeviceError, match="asks for 1000 threads"):
        candidates(bundle, threads=[1000])
    with pytest.raises(BundleError, match="has no fp16 model"):
        candidates(bundle, precisions=["fp16"])


def test_accuracy_is_that_of_the_export_where_the_bundle_says_it(bundle: Bundle, tmp_path: Path) -> None:
    models = [{"name": "full", "accuracy": {"successes": 95, "n": 100}}]
    models.append({"name": "edge", "accuracy": {"successes": 90, "n": 100}})
    reported = with_report(bundle, tmp_path / "reported", {"models": {"int8": {"models": models}}})
    result = run(reported, "--json")
    assert result.exit_code == 0, result.stderr
    (measured,) = json.loads(result.stdout)["measured"]
    assert measured["accuracy"]["at_export"]["successes"] == 90
    assert measured["accuracy"]["golden"]["n"] == 12
    broken = with_report(bundle, tmp_path / "broken", {"models": {"int8": {}}})
    result = run(broken)
    assert result.exit_code == BundleError.exit_code
    assert "report/report.json has no accuracy of the model files: export the bundle again" in result.stderr


def test_the_table_and_the_picture_show_what_was_measured(bundle: Bundle, tmp_path: Path) -> None:
    plot = tmp_path / "speed.png"
    result = run(bundle, "--plot", plot)
    assert result.exit_code == 0, result.stderr
    title, headings, row = result.stdout.splitlines()
    assert title.startswith("tiny on ")
    assert headings.split()[:4] == ["precision", "runtime", "delegate", "threads"]
    assert re.fullmatch(r"int8 +LiteRT [\d.]+ +XNNPACK +1 .* 100\.0 % \(95 % CI .*, n=12\) golden", row)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_only_the_picture_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(bundle, "--plot", tmp_path / "speed.png")
    assert result.exit_code == 10
    assert result.stderr.endswith("needs packages that are not installed: pip install 'edgebcnn[plot]'\n")
    assert run(bundle).exit_code == 0


def test_the_overhead_of_a_call_is_measured_beside_its_invoke(bundle: Bundle) -> None:
    arguments = [str(bundle.path), "--rounds", "2", "--calls", "3", "--json"]
    arguments += ["--interpolation", "halving", "--interpolation", "area"]
    result = CliRunner().invoke(device_overhead.main, arguments)
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    turns = [(row["interpolation"], row["time"]) for row in rows]
    assert turns == [("halving", "CPU"), ("halving", "wall"), ("area", "CPU"), ("area", "wall")]
    for row in rows:
        assert row["invoke_ms"] > 0
        assert row["prepare_ms"] > 0
        assert row["ratio_of_rounds"] == sorted(row["ratio_of_rounds"])


def test_overhead_is_all_but_the_invoke() -> None:
    times = [np.full((2, 3), value) for value in (4.0, 1.0, 0.2)]
    assert device_overhead.Calls(*times).as_json()["ratio"] == 0.3


def test_the_loop_is_measured_beside_bare_invokes(bundle: Bundle) -> None:
    result = CliRunner().invoke(loop.main, [str(bundle.path), "--rounds", "2", "--seconds", "0.4", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["passed"] else 1), result.stderr
    assert found["share"] > 0
    assert found["share_of_rounds"] == sorted(found["share_of_rounds"])
    assert 0 < found["loop_per_s"] <= found["camera_per_s"]
    assert found["age_p95_ms"] > 0
    assert "of the invokes" in loop.told(found)


def test_the_measured_loop_does_as_run_does_and_resizes_as_it_is_asked(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, apply = set(), Preprocessing.apply

    def noted(preprocessing: Preprocessing, photo_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        seen.add((preprocessing.interpolation, cv2.getNumThreads()))
        return apply(preprocessing, photo_bgr)

    monkeypatch.setattr(Preprocessing, "apply", noted)
    size = ["--rounds", "1", "--seconds", "0.2", "--interpolation", "linear", "--json"]
    result = CliRunner().invoke(loop.main, [str(bundle.path), *size])
    assert json.loads(result.stdout)["interpolation"] == "linear"
    assert seen == {("linear", 1)}
