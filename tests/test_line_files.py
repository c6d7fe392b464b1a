"""JSON lines and CSV hold whole lines, whatever happens to the program or the disk."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebcnn.errors import StorageError
from edgebcnn.printable import visible
from edgebcnn.sinks.event import ReadingEvent
from edgebcnn.sinks.files import CSV_COLUMNS, CsvSink, JsonLinesSink, Rotation
from edgebcnn.sinks.outlet import Counts, Outlet
from edgebcnn.sinks.terminal import TerminalSink
from edgebcnn.worker import Deadline, WhenFull
from tests.broker import wait_until
from tests.readings import events, reading, stamp


def write(sink: JsonLinesSink | CsvSink, count: int) -> None:
    for event in events(count):
        sink.write(event)
    sink.close(Deadline(lambda: False))


def frames(*files: Path) -> list[int]:
    """Numbers of the frames in these files, every line of which is whole and valid."""
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    assert all(line.endswith(b"\n") for line in lines)
    return [ReadingEvent.model_validate_json(line).frame for line in lines]


def test_json_lines_are_appended_one_an_event(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for _ in range(2):
        write(JsonLinesSink(file), 3)
    assert frames(file) == [0, 1, 2, 0, 1, 2]
    assert json.loads(file.read_text().splitlines()[0])["kind"] == "reading"


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="choose a path that you can write"):
        JsonLinesSink(tmp_path / "no" / "such" / "folder.jsonl")


@pytest.mark.parametrize("half", ['{"sch', '{"schema_version": 2, "kind": "reading", "id": "5f0c'])
def test_half_a_line_that_a_power_cut_left_is_cut_off(tmp_path: Path, half: str) -> None:
    file = tmp_path / "events.jsonl"
    write(JsonLinesSink(file), 2)
    with file.open("a") as torn:
        torn.write(half)
    write(JsonLinesSink(file), 1)
    assert frames(file) == [0, 1, 0]


def test_a_file_that_holds_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"\xff\xd8\xff\xe0 a photo")
    for kind in (JsonLinesSink, CsvSink):
        with pytest.raises(StorageError, match="something else than events"):
            kind(file)
    assert file.read_bytes() == b"\xff\xd8\xff\xe0 a photo"


def test_a_file_is_put_aside_before_it_grows_too_large(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    size = len(events(1)[0].json_line)
    write(JsonLinesSink(file, rotation=Rotation(max_bytes=10 * size + 50, keep=99)), 95)
    oldest_first = [tmp_path / f"events.jsonl.{number}" for number in range(9, 0, -1)]
    assert sorted(tmp_path.iterdir()) == sorted([file, *oldest_first])
    assert frames(*oldest_first, file) == list(range(95))
    assert all(aside.stat().st_size <= 10 * size + 50 for aside in oldest_first)


def test_only_as_many_files_as_wanted_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    size = len(events(1)[0].json_line)
    for _ in range(2):  # the second run goes on where the first ended
        write(JsonLinesSink(file, rotation=Rotation(max_bytes=5 * size, keep=2)), 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    kept = frames(tmp_path / "events.jsonl.2", tmp_path / "events.jsonl.1", file)
    assert kept == list(range(20 - len(kept), 20))


def test_a_line_longer_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    write(JsonLinesSink(file, rotation=Rotation(max_bytes=10, keep=9)), 3)
    assert [frames(file), frames(tmp_path / "events.jsonl.1"), frames(tmp_path / "events.jsonl.2")] == [[2], [1], [0]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_cannot_be_rotated() -> None:
    with pytest.raises(StorageError, match="not a file that can be rotated"):
        JsonLinesSink(Path("/dev/full"), rotation=Rotation(max_bytes=1000, keep=1))


def test_every_row_of_a_csv_has_every_column(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    write(CsvSink(file), 2)
    sink = CsvSink(file)
    sink.write(stamp().reading(reading(2, label='7 Up, "330 ml"\nZero', photo="a/b.png")))
    sink.close(Deadline(lambda: False))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["frame"] for row in rows] == ["0", "1", "2"]
    assert (rows[2]["label"], rows[2]["photo"], rows[2]["gtin"]) == ('7 Up, "330 ml"\\nZero', "a/b.png", "")
    assert json.loads(rows[0]["top3"])[0]["label"] == "Oatly-Oat-Milk"
    assert len(file.read_text().splitlines()) == 4


def test_each_csv_file_has_its_header(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    write(CsvSink(file, rotation=Rotation(max_bytes=900, keep=20)), 12)
    files = list(tmp_path.iterdir())
    assert len(files) > 2
    assert {path.read_text().splitlines()[0] for path in files} == {",".join(CSV_COLUMNS)}


@pytest.mark.parametrize("half", [b"schema_ver", b"2,reading,5f0c"])
def test_half_a_row_that_a_power_cut_left_is_cut_off(tmp_path: Path, half: bytes) -> None:
    file = tmp_path / "events.csv"
    if not half.startswith(b"schema"):
        write(CsvSink(file), 1)
    with file.open("ab") as torn:
        torn.write(half)
    write(CsvSink(file), 1)
    header, *rows = file.read_text().splitlines()
    assert header == ",".join(CSV_COLUMNS)
    assert len(rows) == (1 if half.startswith(b"schema") else 2)
    assert all(row.startswith("2,reading,") and row.count(",") >= len(CSV_COLUMNS) - 1 for row in rows)


def test_a_csv_with_other_columns_is_not_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("schema_version,kind\n1,reading\n")
    with pytest.raises(StorageError, match="other columns"):
        CsvSink(file)
    assert file.read_text() == "schema_version,kind\n1,reading\n"


def test_a_kill_leaves_whole_lines_and_none_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    script = f"""
from pathlib import Path
from edgebcnn.sinks.files import JsonLinesSink, Rotation
from tests.readings import reading, stamp
sink, stamped = JsonLinesSink(Path({str(file)!r}), rotation=Rotation(max_bytes=2000, keep=9999)), stamp()
for frame in range(10**9):
    sink.write(stamped.reading(reading(frame)))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1]) as process:
        wait_until(lambda: len(list(tmp_path.iterdir())) > 20, timeout_s=60)
        process.send_signal(signal.SIGKILL)
    write(JsonLinesSink(file), 0)  # cuts off a half, as the next run would
    asides = [path for path in tmp_path.iterdir() if path != file]
    asides.sort(key=lambda path: -int(path.suffix[1:]))
    kept = frames(*asides, file)
    assert kept == list(range(len(kept)))


def test_a_full_disk_is_waited_for_and_nothing_is_lost(small_disk: Path) -> None:
    ballast, file = small_disk / "ballast", small_disk / "events.jsonl"
    outlet = Outlet(JsonLinesSink(file), when_full=WhenFull.WAIT)
    ballast.write_bytes(bytes(48 * 1024))
    for event in events(100):
        outlet.put(event)
    wait_until(lambda: os.statvfs(small_disk).f_bavail == 0)
    time.sleep(0.3)  # several tries fail
    assert frames(file) == list(range(outlet.counts().delivered))
    assert 0 < outlet.counts().delivered < 100
    ballast.unlink()
    outlet.finish()
    assert frames(file) == list(range(100))
    assert outlet.counts() == Counts(str(file), delivered=100)


def test_a_disk_that_stays_full_ends_the_loop_and_leaves_whole_lines(small_disk: Path) -> None:
    file = small_disk / "events.jsonl"
    outlet = Outlet(JsonLinesSink(file), when_full=WhenFull.WAIT, patience_s=0.3)
    with pytest.raises(StorageError, match=f"no space left on the disk while writing {file}"):
        for event in events(2000):
            outlet.put(event)
            time.sleep(0.001)
    with pytest.raises(StorageError, match="no space left"):
        outlet.finish()
    kept = frames(file)
    assert kept == list(range(outlet.counts().delivered))
    assert len(kept) > 50


def test_a_rotation_that_a_full_disk_stopped_goes_on(small_disk: Path) -> None:
    file = small_disk / "events.jsonl"
    sink = JsonLinesSink(file, rotation=Rotation(max_bytes=30_000, keep=1))
    outlet = Outlet(sink, when_full=WhenFull.WAIT)
    for event in events(300):  # more than the disk holds: the oldest file goes, and the disk never fills up
        outlet.put(event)
    outlet.finish()
    assert frames(small_disk / "events.jsonl.1", file)[-1] == 299


def test_a_second_run_on_one_file_is_refused_also_after_a_rotation(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    sink = JsonLinesSink(file, rotation=Rotation(max_bytes=1000, keep=9))
    for event in events(20):
        sink.write(event)
        with pytest.raises(StorageError, match="another run writes"):
            JsonLinesSink(file)
    assert len(list(tmp_path.iterdir())) > 5
    sink.close(Deadline())
    write(JsonLinesSink(file), 1)


def test_a_run_in_another_process_holds_the_file(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    script = f"""
import sys
from pathlib import Path
from edgebcnn.sinks.files import CsvSink
sink = CsvSink(Path({str(file)!r}))
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"ready\n"
        with pytest.raises(StorageError, match="another run writes"):
            CsvSink(file)
        other.kill()
    write(CsvSink(file), 1)


@pytest.mark.parametrize("recreated", [False, True])
def test_a_file_that_logrotate_renames_is_begun_anew(tmp_path: Path, recreated: bool) -> None:
    file = tmp_path / "events.csv"
    sink, several = CsvSink(file), events(4)
    for event in several[:2]:
        sink.write(event)
    file.rename(tmp_path / "events.csv.1")
    if recreated:
        file.touch()
    for event in several[2:]:
        sink.write(event)
    sink.close(Deadline())
    for path, ids in ((tmp_path / "events.csv.1", several[:2]), (file, several[2:])):
        with path.open(newline="") as lines:
            assert [row["id"] for row in csv.DictReader(lines)] == [event.id for event in ids]


def test_a_csv_that_was_emptied_in_place_has_its_header_again(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    sink, several = CsvSink(file), events(2)
    sink.write(several[0])
    os.truncate(file, 0)
    sink.write(several[1])
    sink.close(Deadline())
    with file.open(newline="") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == [several[1].id]


@pytest.mark.parametrize("name", ["=1+2", "+49", "-3", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_no_name_as_a_formula(tmp_path: Path, name: str) -> None:
    file = tmp_path / "events.csv"
    sink = CsvSink(file)
    sink.write(stamp().reading(reading(label=name)))
    sink.close(Deadline())
    with file.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert row["label"] == f"'{name}"
    assert row["score"] == "0.984375"


def test_a_terminal_acts_on_no_name() -> None:
    name = "Oat\x1b[2J\x07\x9b31m\u202emilk"
    stream = io.StringIO()
    TerminalSink(stream).write(stamp().reading(reading(label=name)))
    assert r"Oat\x1b[2J\x07\x9b31m\u202emilk" in stream.getvalue()
    assert stream.getvalue().rstrip("\n").isprintable()


def test_names_of_any_script_are_shown_as_they_are() -> None:
    for name in ("Süße Milch", "冷蔵庫", "שוקו", "शेल्फ", "👩‍🍳"):
        assert visible(name) == name
