"""`edgebcnn run` knows while it runs how well its model does, and says so: golden photos, the full model, alarms."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgebcnn.bundle import open_bundle
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.selftest import difference, read_golden
from edgebcnn.errors import AlarmError, BundleError
from edgebcnn.monitor.alarm import HealthEvents
from edgebcnn.monitor.golden import GoldenResult
from edgebcnn.monitor.shadow import LiveAgreement
from edgebcnn.progress import Silent
from edgebcnn.quantize.tflite.metadata import with_metadata
from edgebcnn.report.agreement import Proportion
from edgebcnn.sinks.choices import SinkChoices, open_sinks
from tests.broker import free_port, wait_until
from tests.mjpeg_server import running_camera
from tests.stub_delegate import WHOLE, compiled
from tests.tiny_bundle import COLOURS_BGR, LABELS, make_tiny_bundle, tiny_model, write_video
from tests.typing_in import keys

FRAMES = 40
PHOTOS = 12


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, a video, and a full model that knows the bundle's products."""
    folder = tmp_path_factory.mktemp("shelf")
    bundle = make_tiny_bundle(folder / "bundle", ["float32"])
    write_video(folder / "shelf.avi", list(COLOURS_BGR) * (FRAMES // 4))
    model, preprocessing = tiny_model("float32"), bundle.manifest.preprocessing
    full = with_metadata(model, name="full", labels=LABELS, preprocessing=preprocessing)
    (folder / "full.tflite").write_bytes(full)
    return folder


def run(shelf: Path, *arguments: object) -> Result:
    given = ["--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", *arguments]
    return CliRunner().invoke(main, ["run", *map(str, given)])


def events(file: Path, kind: str) -> list[dict[str, object]]:
    return [event for event in map(json.loads, file.read_text().splitlines()) if event["kind"] == kind]


def told(file: Path, kind: str) -> bool:
    return file.exists() and bool(events(file, kind))


def going_wrong(folder: Path) -> Path:
    """The profile of a delegate that mistakes red for blue after a warm-up, twelve frames and twelve golden photos."""
    external = compiled(folder, WHOLE, "-DWRONG", f"-DAFTER={1 + 2 * PHOTOS}").external
    assert external is not None
    (folder / "npu.toml").write_text(
        'name = "npu"\ndescription = "goes wrong"\nruntime = "litert"\ndelegate = "external"\nthreads = 1\n'
        f'precision = "float32"\n[external]\nlibrary = "{external.library}"\n'
    )
    return folder / "npu.toml"


def test_the_golden_photos_are_replayed_while_it_runs_and_told_everywhere(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    result = run(shelf, *keys(monitoring__golden_every=24), "--jsonl", file, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["golden"]["replays"], summary["golden"]["failed"]) == (1, 0)
    newest = summary["golden"]["newest"]
    assert (newest["problem"], newest["at_export"]["same_top1"], newest["agreement"]["n"]) == (None, PHOTOS, PHOTOS)
    (event,) = events(file, "golden")
    assert (event["passed"], event["same_top1"], event["accuracy"]) == (True, PHOTOS, 1.0)
    assert event["agreement_low"] == pytest.approx(newest["agreement"]["low"], abs=1e-6)
    assert summary["classified"] == len(events(file, "reading")) == FRAMES


def test_a_file_is_read_without_them_unless_they_are_asked_for(shelf: Path) -> None:
    assert "golden" not in json.loads(run(shelf, "--json").stdout)
    told = run(shelf, *keys(monitoring__golden_every=24), "--quiet").stdout
    assert "golden    matches the export: same product on 12 of 12 photos" in told


def test_a_model_that_goes_wrong_half_way_is_reported_and_the_run_goes_on(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    device = going_wrong(tmp_path)
    result = run(shelf, "--device", device, *keys(monitoring__golden_every=1e-9), "--jsonl", file, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert [event["passed"] for event in events(file, "golden")] == [True, False, False]
    (alarm,) = events(file, "alarm")
    assert (alarm["about"], alarm["stops"]) == ("golden", False)
    assert "libstub.so does not compute what the model did at export (same product on 6 of 12" in str(alarm["problem"])
    assert f"ALARM: {alarm['problem']}" in result.stderr
    assert len(events(file, "reading")) == FRAMES


def test_a_model_that_goes_wrong_half_way_stops_the_service_where_it_shall(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    wrong = [
        "--device",
        going_wrong(tmp_path),
        *keys(monitoring__golden_every=1e-9),
        *keys(monitoring__on_alarm="stop"),
    ]
    result = run(shelf, *wrong, "--jsonl", file, "--json")
    assert result.exit_code == AlarmError.exit_code == 15
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "does not compute what the model did at export" in result.stderr
    assert json.loads(result.stdout)["golden"]["failed"] == 1, "the summary is printed all the same"
    assert [event["stops"] for event in events(file, "alarm")] == [True]
    assert len(events(file, "reading")) == 2 * PHOTOS


def test_the_full_model_beside_the_loop_is_in_the_summary_and_ends_with_it(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    shadow = ["--shadow", shelf / "full.tflite", *keys(monitoring__shadow_scene=0), *keys(monitoring__golden_every=0)]
    with running_camera() as camera:
        where = ["--bundle", shelf / "bundle", "--camera", camera, "--jsonl", file, "--json"]
        command = [sys.executable, "-m", "edgebcnn", "run", *map(str, [*where, *shadow])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: told(file, "agreement") or process.poll() is not None, timeout_s=200)
            process.send_signal(signal.SIGTERM)
            stdout, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    found = json.loads(stdout)["shadow"]
    assert (found["model"], found["agreement"]["value"], found["restarts"]) == ("full.tflite", 1.0, 0)
    assert found["floor"] == pytest.approx(Proportion(PHOTOS, PHOTOS).low), "that of the golden photos: no report"
    assert found["agreement"]["n"] >= events(file, "agreement")[0]["n"] == 1


@pytest.mark.parametrize(
    ("flags", "exit_code", "sentence"),
    [
        (["--shadow"], BundleError.exit_code, "holds no full model: export it again with --with-full"),
        (["--shadow", "gone.tflite"], BundleError.exit_code, "gone.tflite cannot be read (No such file or directory)"),
        ([*keys(monitoring__shadow_cpu=0.5)], 2, "monitoring.shadow_cpu is for --shadow"),
        ([*keys(monitoring__golden_every=float("nan"))], 2, "input should be a finite number"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_the_first_frame(
    shelf: Path, flags: list[str], exit_code: int, sentence: str
) -> None:
    result = run(shelf, *flags)
    assert result.exit_code == exit_code
    assert sentence in result.stderr
    assert result.stdout == ""


def test_prometheus_sees_what_was_found_and_nothing_before(shelf: Path) -> None:
    port = free_port()
    choices = SinkChoices(metrics=str(port))
    sinks = open_sinks(
        choices,
        bundle_digest="0" * 64,
        terminal=None,
        keep_every_line=False,
        reporter=Silent(),
        in_a_hurry=lambda: False,
    )

    def scraped() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    assert math.isnan(scraped()["edgebcnn_agreement"])
    bulletin = HealthEvents(sinks, source="camera 0", reporter=Silent(), stops=False)
    golden = read_golden(open_bundle(shelf / "bundle"), "float32")
    outputs = Classifier.from_bundle(open_bundle(shelf / "bundle")).probabilities(golden.pixels)
    result = GoldenResult(
        difference(outputs, golden.edge), golden.accuracy(outputs), golden.agreement(outputs), 0.5, None
    )
    bulletin.golden(result)
    found = LiveAgreement("full.tflite", 18, 20, floor=0.8, alarm=False, restarts=1, problem="gone", cpu_s=2.0)
    bulletin.agreement(found)
    bulletin.alarm("agreement", "it fell")
    wait_until(lambda: scraped().get('edgebcnn_events_total{kind="alarm"}') == 1)
    seen = scraped()
    sinks.close()
    assert (seen["edgebcnn_golden_passed"], seen["edgebcnn_golden_accuracy"]) == (1.0, 1.0)
    assert seen["edgebcnn_golden_steps"] < 1
    assert (seen["edgebcnn_agreement"], seen["edgebcnn_agreement_scenes"]) == (0.9, 20)
    assert seen["edgebcnn_agreement_low"] == pytest.approx(found.interval[0], abs=1e-6)
    assert seen['edgebcnn_alarms_total{about="agreement"}'] == 1
    assert seen['edgebcnn_alarms_total{about="golden"}'] == 0
