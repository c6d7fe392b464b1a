"""`edgebcnn run` tells others what it reads: flags, mistakes, signals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.errors import EdgebcnnError, MissingExtraError, SinkError, StorageError
from edgebcnn.sinks.backlog import Backlog
from tests.broker import Listener, free_port, running_broker, wait_until
from tests.mjpeg_server import running_camera
from tests.tiny_bundle import make_tiny_bundle, write_photos
from tests.typing_in import keys
from tests.web_server import web_server


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and eight photos."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8"])
    write_photos(folder / "photos", per_label=2)
    return folder


def run(shelf: Path, *arguments: str, **environment: str) -> Result:
    given = ["--bundle", str(shelf / "bundle"), "--camera", str(shelf / "photos"), *arguments]
    return CliRunner().invoke(main, ["run", *given], env=environment)


def test_every_sink_gets_every_event_of_a_run(shelf: Path, tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker, web_server() as server:
        listener = Listener(broker)
        files = ["--jsonl", str(tmp_path / "events.jsonl"), "--csv", str(tmp_path / "events.csv")]
        others = ["--mqtt", broker.address, "--webhook", server.address, "--metrics", str(free_port())]
        result = run(shelf, *files, *others, *keys(events__spool=str(tmp_path / "spool")), "--json")
        wait_until(lambda: len(listener.events()) == 8)
        listener.close()
    assert result.exit_code == 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["frame"] for event in events] == list(range(8))
    assert events == listener.events() == server.events()
    rows = (tmp_path / "events.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows] == ["id", *(event["id"] for event in events)]
    bundle = json.loads((shelf / "bundle" / "bundle.json").read_text())
    assert {event["bundle"] for event in events} == {bundle["digest"][:16]}
    sinks = json.loads(result.stdout)["sinks"]
    assert [sink["sink"] for sink in sinks] == [files[1], files[3], "metrics", "mqtt", "webhook"]
    assert {(sink["delivered"], sink["dropped"], sink["waiting"]) for sink in sinks} == {(8, 0, 0)}


def test_the_summary_says_what_became_of_the_events(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    result = run(
        shelf,
        "--jsonl",
        str(file),
        *keys(events__rotate_mb=0.001),
        *keys(events__rotate_keep=2),
        *keys(events__device_id="shelf-3"),
    )
    assert result.stdout.splitlines()[-1] == f"events    {file} 8 delivered"
    assert json.loads(file.read_text().splitlines()[0])["device"] == "shelf-3"
    assert len(list(tmp_path.glob("events.jsonl*"))) == 3


def test_addresses_come_from_the_environment_too(shelf: Path, tmp_path: Path) -> None:
    with web_server() as server:
        result = run(shelf, *keys(events__spool=str(tmp_path)), EDGEBCNN_WEBHOOK=server.address)
    assert result.exit_code == 0
    assert len(server.events()) == 8


def refused(result: Result, error: type[EdgebcnnError], sentence: str) -> bool:
    """Whether a run ended before its loop began, with that error's exit code and that sentence alone."""
    assert (result.exit_code, result.stdout) == (error.exit_code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return sentence in line


def test_a_mistake_is_one_sentence_before_the_loop_starts(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool, nobody = [*keys(events__spool=str(tmp_path / "spool"))], free_port()
    broker = f"mqtt://user:S3CRET@127.0.0.1:{nobody}"
    result = run(shelf, *spool, "--mqtt", broker)
    assert refused(result, SinkError, f"mqtt://127.0.0.1:{nobody}: connection refused; check the address")
    assert "S3CRET" not in result.output
    result = run(shelf, *spool, "--webhook", f"http://127.0.0.1:{nobody}/S3CRET")
    assert refused(result, SinkError, f"http://127.0.0.1:{nobody}: connection refused; check the address")
    assert "S3CRET" not in result.output
    with web_server() as server:
        port = server.address.split(":")[2].split("/")[0]
        result = run(shelf, "--metrics", port)
        assert refused(result, SinkError, f"--metrics cannot listen on 127.0.0.1:{port} (address already in use)")
    assert refused(run(shelf, "--metrics", "here"), SinkError, "--metrics here is not a port")
    for flag in ("--jsonl", "--csv"):
        assert refused(run(shelf, flag, str(tmp_path / "no" / "file")), StorageError, "cannot write")
    result = run(shelf, "--webhook", "http://127.0.0.1:1", *keys(events__spool=str(tmp_path / "file")))
    assert refused(result, StorageError, f"cannot write {tmp_path / 'file' / 'webhook.sqlite'}")
    other_run = Backlog(tmp_path / "spool" / "mqtt.sqlite", max_bytes=1000)
    assert refused(run(shelf, *spool, "--mqtt", broker), StorageError, "another run uses")
    other_run.close()


def test_a_start_that_is_refused_leaves_nothing_behind_and_takes_nothing_away(shelf: Path, tmp_path: Path) -> None:
    spool, nobody = tmp_path / "var" / "spool", free_port()
    mqtt, webhook = ["--mqtt", f"mqtt://127.0.0.1:{nobody}"], ["--webhook", f"http://127.0.0.1:{nobody}/"]
    assert refused(run(shelf, *keys(events__spool=str(spool)), *mqtt), SinkError, "connection refused")
    assert list(tmp_path.iterdir()) == []
    with running_broker(tmp_path) as broker:
        result = run(shelf, *keys(events__spool=str(spool)), "--mqtt", broker.address, *webhook)
    assert refused(result, SinkError, "http://127.0.0.1")
    assert not (tmp_path / "var").exists()
    assert (
        run(shelf, *keys(events__spool=str(spool)), *mqtt, *keys(events__allow_offline=True), "--json").exit_code == 0
    )
    assert refused(run(shelf, *keys(events__spool=str(spool)), *mqtt, *webhook), SinkError, "connection refused")
    assert [path.name for path in spool.iterdir()] == ["mqtt.sqlite"], "its events still wait"
    with closing(Backlog(spool / "mqtt.sqlite", max_bytes=1000)) as backlog:
        assert len(backlog) == 8


@pytest.mark.parametrize(
    ("module", "flags", "extra"),
    [("paho", ["--mqtt", "mqtt://127.0.0.1"], "mqtt"), ("prometheus_client", ["--metrics", "0"], "metrics")],
)
def test_a_missing_package_is_one_sentence_with_the_line_that_installs_it(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, module: str, flags: list[str], extra: str
) -> None:
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    result = run(shelf, *flags)
    assert refused(result, MissingExtraError, f"pip install 'edgebcnn[{extra}]'")


def test_a_signal_loses_no_event_though_broker_and_server_are_gone(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    spool = [*keys(events__spool=str(tmp_path / "spool"))]
    with running_broker(tmp_path) as broker, web_server() as server:
        listener = Listener(broker)
        to = ["--mqtt", broker.address, "--webhook", server.address, *spool]
        server.answers = [(200, {}), (0, {})]  # takes the first, then hangs
        with running_camera() as camera:
            arguments = [
                "--bundle",
                str(shelf / "bundle"),
                "--camera",
                camera,
                "--jsonl",
                str(file),
                "--quiet",
                *keys(monitoring__golden_every=0),
            ]
            command = [sys.executable, "-m", "edgebcnn", "run", *arguments, *to]
            with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                wait_until(lambda: len(listener.events()) > 20, timeout_s=60)
                broker.stop()
                before = file.stat().st_size
                wait_until(lambda: file.stat().st_size > before + 20_000)
                process.send_signal(signal.SIGTERM)
                began_s = time.monotonic()
                _, errors = process.communicate(timeout=30)
                took_s = time.monotonic() - began_s
        assert process.returncode == 0, errors
        assert took_s < 3, "one second, and what a busy machine takes"
        assert "events wait in" in errors
        broker.start()
        assert run(shelf, "--max-frames", "1", "--quiet", *to).exit_code == 0
        ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
        wait_until(lambda: {*ids} <= {event["id"] for event in listener.events()})
        listener.close()
    for got in (listener.events(), server.events()):
        once = list(dict.fromkeys(event["id"] for event in got))
        assert once[:-1] == ids, "the last one is of the second run"


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ([*keys(events__rotate_mb=3)], "--jsonl or --csv"),
        (["--jsonl", "x.jsonl", *keys(events__rotate_keep=3)], "events.rotate_mb"),
        (["--webhook", "http://127.0.0.1:9", *keys(events__mqtt_discovery="")], "--mqtt"),
        ([*keys(events__allow_offline=True)], "--mqtt or --webhook"),
        ([*keys(sample__sample_rate=0.5)], "--sample"),
        (["--blur-faces", "faces.tflite"], "--sample"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(shelf: Path, flags: list[str], missing: str) -> None:
    result = run(shelf, *flags)
    assert result.exit_code == 2
    assert re.search(rf"Error: (\S+) is for {missing}: add that, or omit \1$", result.stderr.strip())


def test_a_flag_may_serve_an_address_from_the_environment(shelf: Path, tmp_path: Path) -> None:
    with web_server() as server:
        result = run(shelf, *keys(events__spool=str(tmp_path / "spool")), EDGEBCNN_WEBHOOK=server.address)
    assert result.exit_code == 0, result.stderr
    assert len(server.events()) == 8
