"""Mutates valid files and streams, and looks for what their readers do not turn into one sentence.

`python -m tests.fuzz --seconds 1800` (`make fuzz`) goes on with random seeds; the slow tests run it for some seconds. A
find is an exception that is no `EdgebcnnError` (or, for the parts that raise it on purpose, `ValueError`), or an input
that takes longer than `LONGEST_S`. It is written to a file, and becomes a test in `test_untrusted.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import _document_digest, open_bundle, pack_bundle
from edgebcnn.catalog import load
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import GoldenFile
from edgebcnn.errors import DeviceError, EdgebcnnError
from edgebcnn.evaluation.field_audit import scenes_of
from edgebcnn.field.record import encoded, read_pixels, read_record
from edgebcnn.shelf.slots import load_slots
from edgebcnn.sources.capture import silence_opencv
from edgebcnn.sources.http_auth import authorization
from edgebcnn.sources.jpeg_stream import JpegCutter, PictureCutter, boundary_of, decoded
from edgebcnn.sources.truth import video_truth
from edgebcnn.untrusted.files import ArrayFile, json_of
from edgebcnn.untrusted.images import decode
from tests.samples import record
from tests.tiny_bundle import make_tiny_bundle

LONGEST_S = 5.0
SLOTS = b"""units = "share"
[rules]
settle_s = 2.0
[[shelf]]
name = "Top"
[[shelf.slot]]
name = "A1"
product = "Red"
box = [0.1, 0.1, 0.3, 0.5]
[[shelf.slot]]
name = "A2"
gtin = "00000000000017"
polygon = [[0.4, 0.1], [0.6, 0.12], [0.58, 0.5]]
"""
TOKENS = (
    *(b"[" * 200, b"{" * 200, b'{"a":' * 200, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true", b'""', b"[]"),
    *(b"\0", b"\xff", b"\xff\xd8", b"\xff\xd9", b"\xff\xff", b"\r\n\r\n", b"--f\r\n", b"\x1b]0;x\x07", b"..", b"/"),
    *(b"0x" + b"f" * 300, b"a.b" * 100, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"PK\1\2", b"Content-Length: 999999999"),
)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: Valid inputs.
        read: Reads an input; what it raises beyond `allowed` is a find.
        allowed: What it may raise.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...] = (EdgebcnnError,)


def targets(folder: Path) -> Mapping[str, Target]:
    """Every reader of what comes from outside that needs no TensorFlow, with files in that folder."""
    bundle = make_tiny_bundle(folder / "bundle", ["int8"])
    pack_bundle(bundle.path, folder / "bundle.zip")
    manifest, golden = ((bundle.path / name).read_bytes() for name in ("bundle.json", "golden.npz"))
    labels = (bundle.path / "labels.json").read_bytes()
    noise = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    picture = np.asarray(cv2.GaussianBlur(noise, (5, 5), 0), np.uint8)
    images = tuple(cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff"))
    part = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(images[0]), images[0])
    profile = (Path(__file__).parents[1] / "devices" / "raspberry-pi-5.toml").read_bytes()

    def written(name: str, content: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def in_bundle(name: str) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            original = (bundle.path / name).read_bytes()
            written(f"bundle/{name}", _with_right_digest(content) if name == "bundle.json" else content)
            try:
                return GoldenFile(bundle, "int8") if name == "golden.npz" else open_bundle(bundle.path)
            finally:
                written(f"bundle/{name}", original)

        return read

    def kept(content: bytes) -> object:
        file = written("5f-0.png", content)
        return scenes_of([read_record(file)], 10.0), read_pixels(file)

    def cut(content: bytes) -> object:
        pictures = [cutter.cut(content) for cutter in (PictureCutter(b"f"), PictureCutter(b""), JpegCutter())]
        return [decoded(each) for found in pictures for each in found]

    return {
        "slots": Target((SLOTS,), lambda content: load_slots(written("slots.toml", content))),
        "profile": Target(
            (profile,),
            lambda content: load(
                str(written("own.toml", content)), DeviceProfile, package="x", kind="profile", error=DeviceError
            ),
        ),
        "manifest": Target((manifest,), in_bundle("bundle.json")),
        "labels": Target((labels,), in_bundle("labels.json")),
        "golden": Target((golden,), in_bundle("golden.npz")),
        "pack": Target(
            ((folder / "bundle.zip").read_bytes(),), lambda content: open_bundle(written("mutated.zip", content))
        ),
        "record": Target((encoded(record(), picture), _record_chunk(picture)), kept),
        "truth": Target(
            (b"frame,label\n0,Red\n1,Green\n",),
            lambda content: (written("a.avi.truth.csv", content), video_truth(folder / "a.avi", ["Red", "Green"])),
        ),
        "photo": Target(images, decode, (ValueError,)),
        "frame": Target(images[:1], decoded),
        "stream": Target((part * 3, images[0] * 3), cut),
        "boundary": Target(
            (b'multipart/x-mixed-replace; boundary="f"',), lambda text: boundary_of(text.decode("latin1"))
        ),
        "challenge": Target(
            (b'Negotiate, Digest realm="cam", nonce="n", qop="auth,auth-int", algorithm=SHA-256, Basic realm="x"',),
            lambda text: authorization([text.decode("latin1")], user="u", password="p", uri="/"),
        ),
        "json": Target((manifest, b'{"a": [1, -2.5e3, true, null, "\\u00fc"]}'), json_of, (ValueError,)),
        "npz": Target((golden,), _arrays, (ValueError,)),
    }


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One input, changed in one to four places."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(changed) + 1))
        length = int(rng.choice([1, 2, 4, 16, 256]))
        kind = int(rng.integers(6))
        if kind == 0:
            changed[at : at + length] = rng.bytes(length)
        elif kind == 1:
            changed[at : at + int(rng.choice([0, length]))] = TOKENS[int(rng.integers(len(TOKENS)))]
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * int(rng.choice([1, 2, 50]))
        elif kind == 4:
            del changed[at:]
        elif at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def fuzz(seconds: float, *, seed: int, report: Callable[[str, bytes, str], None]) -> dict[str, int]:
    """Tries mutated inputs of every target in turn for so long; returns how many of each."""
    silence_opencv()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="edgebcnn-fuzz-") as name:
        all_targets = targets(Path(name))
        tried = dict.fromkeys(all_targets, 0)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for kind, target in all_targets.items():
                content = mutated(target.seeds[int(rng.integers(len(target.seeds)))], rng)
                if problem := _problem(target, content):
                    report(kind, content, problem)
                tried[kind] += 1
    return tried


def _problem(target: Target, content: bytes) -> str:
    begun_s = time.monotonic()
    try:
        target.read(content)
    except target.allowed as error:
        if len(str(error).splitlines()) > 1:
            return f"several lines: {error}"
    except Exception:  # whatever it is, it is a find
        return traceback.format_exc()
    took_s = time.monotonic() - begun_s
    return f"took {took_s:.1f} s" if took_s > LONGEST_S else ""


def _with_right_digest(manifest: bytes) -> bytes:
    """The manifest as its maker would have written it, where it is JSON: else all that is tried is the digest."""
    try:
        document = json.loads(manifest)
        document.pop("digest", None)
        return json_bytes({**document, "digest": _document_digest(document)})
    except (ValueError, AttributeError, RecursionError):
        return manifest


def _arrays(content: bytes) -> list[object]:
    file = ArrayFile(io.BytesIO(content), max_bytes=1 << 24)
    return [file.read(name) for name in file.names]


def _record_chunk(picture: NDArray[np.uint8]) -> bytes:
    """A kept frame whose record is a chunk with a right checksum and a time that is none."""
    content = encoded(record(), picture)
    size = int.from_bytes(content[33:37], "big")
    text = content[41 : 41 + size].replace(b"2025-03-01T09:30:00.125Z", b"report")
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return content[:33] + chunk + content[33 + 12 + size :]


def main() -> int:
    """Fuzzes for `--seconds`, writes each find to a file, and exits with 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    found = 0

    def report(kind: str, content: bytes, problem: str) -> None:
        nonlocal found
        found += 1
        file = Path(f"fuzz-{kind}-{zlib.crc32(content):08x}")
        file.write_bytes(content)
        print(f"{file}: {problem}", flush=True)

    tried = fuzz(chosen.seconds, seed=chosen.seed, report=report)
    print(json.dumps({"tried": tried, "found": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
