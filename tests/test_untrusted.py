"""Files from outside: whatever they hold, each reader gives its value or one sentence, soon and in little memory."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebcnn.bundle import MANIFEST_NAME, open_bundle
from edgebcnn.catalog import load
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import BundleError, DataError, DeviceError, EdgebcnnError
from edgebcnn.field.record import encoded, read_record
from edgebcnn.preprocessing import read_photo
from edgebcnn.shelf.slots import load_slots
from edgebcnn.sources.truth import video_truth
from edgebcnn.untrusted.files import ArrayFile, csv_of, json_of, open_file, read_bytes, toml_of, whole_number
from tests.samples import record
from tests.tiny_bundle import make_tiny_bundle

pytestmark = pytest.mark.timeout(60)  # a reader that waits for a pipe never ends

DEEP = 100_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * DEEP + b"]" * DEEP, "line 1 nests more than 64 levels"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nests more than 64 levels"),
        (b'["]", ' * 65 + b"1" + b"]" * 65, "nests more than 64 levels"),
        (b'{"a":\n' + b"9" * 5000 + b"}", "line 2 has a number of more than 100 digits"),
        (b'{"a": 9223372036854775808}', "beyond 64 bits"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a":\n}', "line 2 is not JSON"),
        (b"\n\xff", "line 2 is not UTF-8"),
        (b"", "line 1 is not JSON"),
    ],
)
def test_json_beyond_the_limits_is_refused_with_its_line(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        json_of(content)


def test_json_within_the_limits_is_read_as_python_reads_it() -> None:
    value = {"a": [1, -2.5e-3, True, None, '[[[[ {{{{ \\" 9'], "ü": {"9" * 200: 2**63 - 1}, "t": "]" * 99}
    assert json_of(json.dumps(value).encode()) == value
    assert json_of(b"\xef\xbb\xbf[1]") == [1]  # Windows editors begin with a byte order mark


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = " + b"[" * DEEP, "line 1 nests more than 64 levels"),
        (b"a = 1\nb" + b".b" * DEEP + b" = 1", "line 2 nests more than 16 levels"),
        (b"a = {" + b"b." * DEEP + b"b = 1}", "nests more than 16 levels"),
        (b"a = 1\n\nb = 0x" + b"f" * 5000, "line 3 has a number of more than 100 digits"),
        (b"a = " + b"9" * 30, "beyond 64 bits"),
        (b"a = 1\nb =\n", r"not TOML \(.*line 2"),
        (b"a = '\xff'", "not UTF-8"),
        (b"#" * (2 << 20), "larger than 1 MB"),
    ],
)
def test_toml_beyond_the_limits_is_refused_with_its_line(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        toml_of(content)


def test_toml_within_the_limits_is_read_whatever_its_strings_and_comments_hold() -> None:
    brackets = "[{." * 200
    strings = f"# {brackets}\na = '{brackets}'\nb = \"{brackets}\\\"\"\nc = '''\n{brackets}'''\n"
    text = f"{strings}d.e.f = 1.5\nt = 1979-05-27"
    table = toml_of(text.encode())
    assert (table["a"], table["b"], table["c"]) == (brackets, brackets + '"', brackets)
    assert table["d"] == {"e": {"f": 1.5}}


def test_a_csv_that_cannot_be_is_refused_with_its_line() -> None:
    assert list(csv_of('a,b\n\n"x\ny",2\n')) == [(1, ["a", "b"]), (4, ["x\ny", "2"])]
    with pytest.raises(ValueError, match="line 2 is not CSV"):
        list(csv_of('a,b\n"x"y,2\n'))


@pytest.mark.parametrize("text", ["", "-1", "1.0", "²", "٣", "9" * 19, " 1"])
def test_only_plain_digits_are_a_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        whole_number(text)


@pytest.fixture(params=["pipe", "device", "folder"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "device":
        return Path("/dev/zero")
    path = tmp_path / "special"
    os.mkfifo(path) if request.param == "pipe" else path.mkdir()
    return path


def test_what_is_no_file_is_refused_before_it_is_read(special: Path) -> None:
    with pytest.raises(OSError, match="not a file"):
        open_file(special)


def replaced(path: Path, by: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(by)


def test_every_reader_refuses_what_is_no_file(special: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    manifest, golden, truth = bundle.path / MANIFEST_NAME, bundle.path / "golden.npz", tmp_path / "a.avi.truth.csv"
    readers: list[tuple[Path, type[EdgebcnnError], Callable[[], Any]]] = [
        (tmp_path / "slots.toml", DataError, lambda: load_slots(tmp_path / "slots.toml")),
        (tmp_path / "own.toml", DeviceError, lambda: load_profile(tmp_path / "own.toml")),
        (truth, DataError, lambda: video_truth(tmp_path / "a.avi", ["A"])),
        (tmp_path / "photo.jpg", DataError, lambda: read_photo(tmp_path / "photo.jpg")),
        (tmp_path / "1-1.png", DataError, lambda: read_record(tmp_path / "1-1.png")),
        (golden, BundleError, lambda: read_golden(bundle, "int8")),
        (golden, BundleError, lambda: open_bundle(bundle.path)),
        (manifest, BundleError, lambda: open_bundle(bundle.path)),
    ]
    for path, error, read in readers:
        replaced(path, special)
        with pytest.raises(error, match="not a file"):
            read()


def load_profile(path: Path) -> DeviceProfile:
    return load(str(path), DeviceProfile, package="edgebcnn._devices", kind="device profile", error=DeviceError)


def test_a_file_larger_than_its_limit_is_refused_after_so_many_bytes(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no space
    with pytest.raises(OSError, match="larger than 1 MB"):
        read_bytes(tmp_path / "large", max_bytes=1 << 20)


@pytest.mark.parametrize(
    "content",
    [b"[" * DEEP, b'{"files": ' * DEEP, b"9" * 5000, b'{"files": {"": 3}, "digest": []}', b'{"schema_version": 1e999}'],
)
def test_a_manifest_that_cannot_be_is_a_bundle_error(content: bytes, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    (bundle.path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST_NAME):
        open_bundle(bundle.path)


def test_a_packed_bundle_with_a_nameless_member_is_a_bundle_error(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x", b"1")
    (tmp_path / "pack").write_bytes(_without_names(content.getvalue()))
    with pytest.raises(BundleError, match="pack"):
        open_bundle(tmp_path / "pack")


def _without_names(archive: bytes) -> bytes:
    """The archive of one member `x`, whose name is now empty, as the fields of the headers say."""
    local, central = archive.index(b"PK\3\4"), archive.index(b"PK\1\2")
    headers = bytearray(archive)
    headers[local + 26 : local + 28] = headers[central + 28 : central + 30] = b"\0\0"
    headers[central + 30 : central + 32] = b"\1\0"  # the name's one byte becomes an extra field
    headers[local + 28 : local + 30] = b"\1\0"
    return bytes(headers)


def npz(**members: bytes) -> io.BytesIO:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return content


def npy(header: str, values: bytes = b"") -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + values


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY\1\0\xff\xff",
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999, 9), }"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", b"123"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", b"123"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"12345678"),
        npy("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }", b"123"),
        npy("{'descr': '|u1', 'fortran_order': True, 'shape': (1,), }", b"1"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 2000 + ")" * 2000 + ", }"),
        npy("-" * 4000),
    ],
    ids=range(10),
)
def test_an_array_that_promises_what_it_does_not_hold_is_refused(member: bytes) -> None:
    arrays = ArrayFile(npz(a=member), max_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"\ba\b"):
        arrays.read("a")


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.array("text"), np.zeros((0, 3), bool)]
)
def test_what_numpy_writes_is_read_as_numpy_reads_it(array: Any) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, a=array)
    read = ArrayFile(content, max_bytes=1 << 20).read("a")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(class_ids=arrays["class_ids"] + 99),
        lambda arrays: arrays.update(class_ids=arrays["class_ids"].astype(np.float64)),
        lambda arrays: arrays.update(full=arrays["full"][:, :1]),
        lambda arrays: arrays.update(full=arrays["full"].astype(str)),
        lambda arrays: arrays.update(pixels=arrays["pixels"].astype(np.int64)),
        lambda arrays: arrays.update(pixels=np.uint8(3)),
        lambda arrays: arrays.pop("edge_int8"),
        lambda arrays: arrays.update(hard=np.zeros(1, bool)),
    ],
)
def test_golden_photos_that_do_not_fit_are_a_bundle_error(change: Callable[[Any], None], tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    with np.load(bundle.path / "golden.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(bundle.path / "golden.npz", **arrays)
    with pytest.raises(BundleError, match=r"golden\.npz has no golden photos for int8"):
        read_golden(bundle, "int8")


@pytest.mark.parametrize("time", ["report", "2026-11-30", "0001-01-01T00:00:00+14:00", "2026-11-30T10:15:00", ""])
def test_a_record_with_a_time_that_is_none_is_a_data_error(time: str, tmp_path: Path) -> None:
    good = record()
    content = encoded(good.model_copy(update={"time": time}), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / good.file_name).write_bytes(content)
    with pytest.raises(DataError, match=r"\.png is a damaged record"):
        read_record(tmp_path / good.file_name)


@pytest.mark.parametrize("frame", ["9" * 5000, "²", "-1", "1e3"])
def test_a_truth_file_with_an_impossible_frame_is_a_data_error(frame: str, tmp_path: Path) -> None:
    (tmp_path / "a.avi.truth.csv").write_text(f"frame,label\n{frame},A\n")
    with pytest.raises(DataError, match="line 2: expected a frame number"):
        video_truth(tmp_path / "a.avi", ["A"])


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    assert str(DataError("shelf \x1b]0;x\x07 \u202e")) == "shelf \\x1b]0;x\\x07 \\u202e"
