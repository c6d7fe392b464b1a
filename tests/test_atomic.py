"""A file or folder is the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgebcnn import atomic
from edgebcnn.errors import StorageError


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    atomic.write_json(file, {"n": 1})
    atomic.write_json(file, {"n": 2})
    assert _contents(tmp_path) == {"new/a.json": b'{\n  "n": 2\n}\n'}


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing_file(file) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert _contents(tmp_path) == {"a.bin": b"old"}


def test_a_temporary_file_keeps_the_suffix_that_libraries_choose_the_format_by(tmp_path: Path) -> None:
    with atomic.replacing_file(tmp_path / "weights.h5") as part:
        assert part.suffix == ".h5"
        part.touch()


def test_a_failure_while_writing_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with atomic.replacing_folder(folder) as part:
        (part / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing_folder(folder) as part:
        (part / "a").write_bytes(b"half")
        raise ZeroDivisionError
    assert _contents(tmp_path) == {"bundle/a": b"old"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    folder = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic.replacing_folder(folder) as part:
            (part / "deep").mkdir()
            (part / "deep" / name).write_text(name)
    assert _contents(tmp_path) == {"bundle/deep/second": b"second"}


def test_a_folder_is_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    if not atomic._exchange(tmp_path / "new", tmp_path / "old"):
        pytest.skip("this system cannot exchange two folders")

    def rename(path: Path, target: Path) -> None:
        pytest.fail(f"between two renames there is a moment without {target}")

    monkeypatch.setattr(Path, "rename", rename)
    with atomic.replacing_folder(tmp_path / "old") as part:
        (part / "a").write_bytes(b"new")
    assert _contents(tmp_path) == {"old/a": b"new"}


def test_behind_a_link_the_folder_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for content in (b"first", b"second"):
        with atomic.replacing_folder(tmp_path / "link") as part:
            (part / "a").write_bytes(content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"second"


WRITE_FOREVER = """
import sys
from pathlib import Path
from edgebcnn import atomic
folder, file = Path(sys.argv[1]) / "folder", Path(sys.argv[1]) / "file"
for content in (b"a" * 300_000, b"b" * 300_000) * 10_000:
    atomic.write_bytes(file, content)
    with atomic.replacing_folder(folder) as part:
        (part / "one").write_bytes(content)
        (part / "two").write_bytes(content)
    print(flush=True)
"""


@pytest.mark.parametrize("delay_ms", range(0, 20, 2))
def test_a_kill_while_writing_leaves_the_old_or_the_new(tmp_path: Path, delay_ms: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, tmp_path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(delay_ms / 1000)
        writer.send_signal(signal.SIGKILL)
    wholes = [b"a" * 300_000, b"b" * 300_000]
    assert (tmp_path / "file").read_bytes() in wholes
    one, two = ((tmp_path / "folder" / name).read_bytes() for name in ("one", "two"))
    assert one == two
    assert one in wholes


def test_a_full_disk_is_said_and_keeps_the_old_file(small_disk: Path) -> None:
    file = small_disk / "a.bin"
    atomic.write_bytes(file, b"old")
    with pytest.raises(StorageError, match=r"no space left on the disk while writing .*a\.bin: free some"):
        atomic.write_bytes(file, bytes(100_000))
    assert _contents(small_disk) == {"a.bin": b"old"}


def test_a_full_disk_is_said_and_keeps_the_old_folder(small_disk: Path) -> None:
    folder = small_disk / "bundle"
    with atomic.replacing_folder(folder) as part:
        (part / "a").write_bytes(b"old")
    with pytest.raises(StorageError, match="no space left"), atomic.replacing_folder(folder) as part:
        (part / "a").write_bytes(bytes(100_000))
    assert _contents(small_disk) == {"bundle/a": b"old"}


def test_a_path_that_cannot_be_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/a\.json: Not a directory; choose a path"):
        atomic.write_json(tmp_path / "file" / "a.json", {})


def test_json_refuses_what_other_readers_cannot_read() -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.json_bytes({"loss": float("nan")})
