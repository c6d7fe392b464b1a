"""What waits for a broker or server keeps its order, through kills and full disks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgebcnn.errors import StorageError
from edgebcnn.sinks.backlog import IN_MEMORY, Backlog

MB = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "mqtt.sqlite"


def fill(backlog: Backlog, numbers: Iterator[int] | range) -> None:
    for number in numbers:
        backlog.append("reading", b"%d" % number, holds_until_next=False)


def drain(backlog: Backlog, limit: int = 7) -> list[int]:
    """Takes everything out, as a sender does."""
    bodies = []
    while messages := backlog.first(limit, wait_s=0):
        bodies += [int(message.body) for message in messages]
        backlog.remove(messages)
    return bodies


def test_while_the_other_side_keeps_up_the_disk_is_spared(path: Path) -> None:
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        for start in range(0, 1000, IN_MEMORY):
            fill(backlog, range(start, start + IN_MEMORY))
            assert drain(backlog) == list(range(start, start + IN_MEMORY))
        assert path.with_suffix(".sqlite-wal").stat().st_size < 20_000


@pytest.mark.parametrize("gone_at", [0, 10, IN_MEMORY + 10])
def test_the_order_is_kept_from_memory_to_disk_and_back(path: Path, gone_at: int) -> None:
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        fill(backlog, range(gone_at))
        backlog.spare_the_disk(False)
        fill(backlog, range(gone_at, 200))
        backlog.spare_the_disk(True)
        fill(backlog, range(200, 210))
        assert len(backlog) == 210
        assert drain(backlog) == list(range(210))
        assert len(backlog) == 0


def test_what_is_not_removed_is_given_again_and_kept_for_the_next_run(path: Path) -> None:
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        fill(backlog, range(20))
        assert [int(message.body) for message in backlog.first(5, wait_s=0)] == [0, 1, 2, 3, 4]
        backlog.remove(backlog.first(3, wait_s=0))
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        assert len(backlog) == 17
        fill(backlog, range(20, 30))
        assert drain(backlog) == list(range(3, 30))
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        assert len(backlog) == 0


def test_a_kill_loses_nothing_that_was_on_the_disk(path: Path) -> None:
    script = f"""
from pathlib import Path
from edgebcnn.sinks.backlog import Backlog
backlog = Backlog(Path({str(path)!r}), max_bytes=10**9)
backlog.spare_the_disk(False)
for number in range(10**9):
    backlog.append("reading", b"%d" % number, holds_until_next=False)
    print(number, flush=True)
    if number % 3 == 0:
        backlog.remove(backlog.first(1, wait_s=0))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line == "500\n":
                process.send_signal(signal.SIGKILL)
        # What it said after the 500 before the kill reached it has been read too.
        last = int(line)
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        left = drain(backlog)
    assert left == list(range(left[0], left[-1] + 1))
    assert left[-1] >= last
    assert last // 3 <= left[0] <= last // 3 + 1


def test_beyond_its_cap_the_oldest_are_dropped_and_counted(path: Path) -> None:
    with closing(Backlog(path, max_bytes=300)) as backlog:
        backlog.spare_the_disk(False)
        fill(backlog, range(1000, 1100))  # of four bytes each
        assert (len(backlog), backlog.dropped) == (75, 25)
        assert drain(backlog) == list(range(1025, 1100))


def test_what_is_being_sent_is_not_dropped(path: Path) -> None:
    with closing(Backlog(path, max_bytes=300)) as backlog:
        backlog.spare_the_disk(False)
        fill(backlog, range(1000, 1050))
        sent = backlog.first(10, wait_s=0)
        fill(backlog, range(1050, 1100))
        backlog.remove(sent)
        assert backlog.dropped == 25
        assert drain(backlog) == list(range(1035, 1100))


def test_two_runs_cannot_use_one_file(path: Path) -> None:
    with (
        closing(Backlog(path, max_bytes=MB)),
        pytest.raises(StorageError, match=r"another run uses .*mqtt.sqlite: give each run its own events.spool"),
    ):
        Backlog(path, max_bytes=MB)


def test_a_damaged_file_is_put_aside_and_another_begun(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 300)
    with closing(Backlog(path, max_bytes=MB)) as backlog:
        assert backlog.damaged == path.with_suffix(".damaged")
        assert backlog.damaged.read_bytes().startswith(b"not a database")
        fill(backlog, range(3))
        assert drain(backlog) == [0, 1, 2]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*mqtt.sqlite"):
        Backlog(tmp_path / "spool" / "mqtt.sqlite", max_bytes=MB)


@pytest.mark.parametrize("small_disk", ["2m"], indirect=True)  # beyond what SQLite's log takes
def test_a_full_disk_is_said_and_what_was_delivered_does_not_come_again(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with closing(Backlog(small_disk / "mqtt.sqlite", max_bytes=MB)) as backlog:
        backlog.spare_the_disk(False)
        fill(backlog, range(50))
        ballast.touch()
        with ballast.open("ab", buffering=0) as rest, pytest.raises(OSError, match="No space"):
            while True:
                rest.write(bytes(512))
        with pytest.raises(StorageError, match=r"cannot write .*mqtt.sqlite: .*full"):
            fill(backlog, range(50, 5000))
        taken = len(backlog)
        assert drain(backlog) == list(range(taken))
        ballast.unlink()
        fill(backlog, range(5000, 5003))
        assert drain(backlog) == [5000, 5001, 5002]
