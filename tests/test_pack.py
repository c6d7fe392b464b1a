"""A packed bundle is the bundle in one file: the same everywhere, whole or refused, and unpacked once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgebcnn import bundle as bundle_module
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import LABELS_NAME, MANIFEST_NAME, SCHEMA_VERSION, Bundle, open_bundle, pack_bundle, write_bundle
from edgebcnn.cli import main
from edgebcnn.errors import BundleError, StorageError
from edgebcnn.pack import PackedBundle, write_archive
from tests.test_bundle import FILES, LABELS, MANIFEST
from tests.tiny_bundle import make_tiny_bundle, write_photos

MODEL = "model.int8.tflite"
OUR_FAULT = "is not as edgebcnn pack writes it .*: unzip it and give the folder"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where bundles are unpacked; other tests' caches are left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgebcnn" / "bundles"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", MANIFEST, LABELS, FILES).path


@pytest.fixture
def packed(folder: Path) -> Path:
    path = folder.with_name("shop.zip")
    pack_bundle(folder, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that runs, packed beside its folder."""
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle").path
    pack_bundle(bundle, bundle.with_name("tiny.zip"))
    write_photos(bundle.with_name("photos"))
    return bundle.with_name("tiny.zip")


def _contents(folder: Path) -> dict[str, bytes]:
    """What is packed of a folder, in its order."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names.sort(key=lambda name: name != MANIFEST_NAME)
    return {name: (folder / name).read_bytes() for name in names}


def _with_manifest(contents: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The same with another manifest, made as somebody would who can compute its digest."""
    document = {**json.loads(contents[MANIFEST_NAME]), **changes}
    del document["digest"]
    document["digest"] = bundle_module._document_digest(document)
    return {**contents, MANIFEST_NAME: json_bytes(document)}


def _with_file(contents: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    """The same with one more file, its digest in the manifest, at its place."""
    files = {**json.loads(contents[MANIFEST_NAME])["files"], name: bundle_module._sha256(content)}
    more = _with_manifest({**contents, name: content}, files=files)
    return {each: more[each] for each in sorted(more, key=lambda each: (each != MANIFEST_NAME, each))}


def _write(path: Path, contents: dict[str, bytes]) -> Path:
    write_archive(path, contents)
    return path


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_packed_bundle_is_the_bundle(folder: Path, packed: Path, cache: Path) -> None:
    opened, unpacked = open_bundle(packed), open_bundle(folder)
    assert (opened.manifest, opened.labels, opened.digest) == (MANIFEST, LABELS, unpacked.digest)
    assert (opened.given, unpacked.given) == (packed, folder)
    assert opened.path == cache / opened.digest
    assert {name: (opened.path / name).read_bytes() for name in FILES} == FILES


def test_the_same_bundle_is_the_same_file_wherever_and_whenever_it_is_packed(folder: Path, packed: Path) -> None:
    copy = Path(shutil.copytree(folder, folder.with_name("elsewhere")))
    (copy / "notes.txt").write_text("not in bundle.json")
    os.utime(copy / MODEL, (0, 0))
    (copy / MODEL).chmod(0o600)
    pack_bundle(copy, again := folder.with_name("again.zip"))
    assert again.read_bytes() == packed.read_bytes()
    pack_bundle(write_bundle(copy, MANIFEST, LABELS[::-1], FILES).path, again)
    assert again.read_bytes() != packed.read_bytes()


def test_any_zip_tool_opens_it_and_what_comes_out_is_the_bundle(folder: Path, packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as file:
        assert file.testzip() is None
        assert file.namelist() == [MANIFEST_NAME, *sorted([LABELS_NAME, *FILES])]
        file.extractall(tmp_path / "python")
    assert open_bundle(tmp_path / "python").digest == open_bundle(folder).digest
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-q", packed, "-d", tmp_path / "unzip"], check=True)
        assert _contents(tmp_path / "unzip") == _contents(folder)


def test_a_changed_byte_is_refused_or_changes_nothing(packed: Path, cache: Path, rng: np.random.Generator) -> None:
    content, good = packed.read_bytes(), open_bundle(packed)
    shutil.rmtree(cache)
    refused = 0
    for position, byte in enumerate(content):
        other = (byte + int(rng.integers(1, 256))) % 256
        packed.write_bytes(content[:position] + bytes([other]) + content[position + 1 :])
        try:
            opened = open_bundle(packed)
        except BundleError as refusal:
            assert len(str(refusal).splitlines()) == 1
            refused += 1
            continue
        assert {name: (opened.path / name).read_bytes() for name in FILES} == FILES
        assert opened == good
    assert refused >= sum(map(len, _contents(good.path).values()))  # a member's time, for one, is nobody's concern


def test_a_file_that_was_cut_off_anywhere_is_refused(packed: Path, cache: Path) -> None:
    content = packed.read_bytes()
    for length in range(len(content)):
        packed.write_bytes(content[:length])
        with pytest.raises(BundleError, match=r"copy it again|edgebcnn export"):
            open_bundle(packed)
    assert not cache.exists()


def test_a_file_that_is_no_zip_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"TFL3" * 100)
    with pytest.raises(BundleError, match=r"model\.tflite is not a bundle \(neither a folder nor a whole zip file\)"):
        open_bundle(tmp_path / "model.tflite")


def _zipped(path: Path, contents: dict[str, bytes], *twice: str, method: int = zipfile.ZIP_STORED) -> Path:
    """What another tool makes of it."""
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in (*contents, *twice):
            file.writestr(name, contents[name])
    return path


def test_another_tools_zip_file_of_the_same_files_is_the_same_bundle(folder: Path, packed: Path) -> None:
    backwards = dict(sorted(_contents(folder).items(), reverse=True))
    assert open_bundle(_zipped(folder.with_name("other.zip"), backwards)).digest == open_bundle(packed).digest


@pytest.mark.parametrize(
    "make",
    [
        lambda path, contents: _zipped(path, contents, MODEL),
        lambda path, contents: _zipped(path, contents, method=zipfile.ZIP_DEFLATED),
        lambda path, contents: _zipped(path, {"zeros": bytes(10**7)}, method=zipfile.ZIP_DEFLATED),
        lambda path, contents: _overlapping(_zipped(path, contents)),
    ],
    ids=["a name twice", "deflated", "a bomb", "a member that is larger than the file"],
)
def test_a_zip_file_that_may_hide_something_is_refused_before_anything_is_unpacked(
    folder: Path, cache: Path, make: Callable[[Path, dict[str, bytes]], object]
) -> None:
    make(path := folder.with_name("other.zip"), _contents(folder))
    with pytest.raises(BundleError, match=rf"other\.zip {OUR_FAULT}"):
        open_bundle(path)
    assert not cache.exists()


def _overlapping(path: Path) -> Path:
    """Says of the last member that it is huge, as archives do of which all members are the same bytes."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = (10**6).to_bytes(4, "little") * 2
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "name", ["../slipped", "/slipped", "a/../../slipped", "", ".", "a//b", "a/", "nul\0", "\ud800"]
)
def test_a_name_that_leads_outside_is_refused_even_where_every_digest_is_right(
    folder: Path, cache: Path, name: str
) -> None:
    contents = _with_manifest(_contents(folder), files={name: bundle_module._sha256(b"")})
    (folder / MANIFEST_NAME).write_bytes(contents[MANIFEST_NAME])
    for path in (folder, _write(folder.with_name("slip.zip"), contents)):
        with pytest.raises(BundleError, match=r"bundle\.json names '.*', which is no file within a bundle"):
            open_bundle(path)
    assert not cache.exists()


def test_a_member_that_was_exchanged_left_out_or_added_is_named(folder: Path, cache: Path) -> None:
    contents = _contents(folder)
    changed = {**contents, MODEL: contents[MODEL][::-1]}
    without = {name: content for name, content in contents.items() if name != MODEL}
    for other, problem in (
        (changed, rf"shop\.zip/{re.escape(MODEL)} was changed after export \(its SHA-256 differs\)"),
        (without, rf"shop\.zip/{re.escape(MODEL)} is missing"),
        ({**contents, "virus.sh": b""}, r"shop\.zip holds other files than its bundle\.json names: pack its folder"),
    ):
        with pytest.raises(BundleError, match=problem):
            open_bundle(_write(folder.with_name("shop.zip"), other))
    assert not cache.exists()


def test_a_packed_bundle_of_another_version_or_with_a_strange_field_is_not_unpacked(folder: Path, cache: Path) -> None:
    contents = _contents(folder)
    for changes, problem in (
        ({"schema_version": SCHEMA_VERSION + 1}, rf"shop\.zip/bundle\.json has schema version {SCHEMA_VERSION + 1}"),
        ({"colour": "BGR"}, r"shop\.zip/bundle\.json, field colour: "),
    ):
        with pytest.raises(BundleError, match=problem):
            open_bundle(_write(folder.with_name("shop.zip"), _with_manifest(contents, **changes)))
    assert not cache.exists()


def test_it_is_unpacked_once(packed: Path) -> None:
    first = open_bundle(packed)
    made = (first.path / MODEL).stat().st_ino
    again = open_bundle(packed)
    assert (again.path / MODEL).stat().st_ino == made


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"half"), Path.unlink])
def test_what_was_damaged_in_the_cache_is_unpacked_again(packed: Path, damage: Callable[[Path], object]) -> None:
    damage(open_bundle(packed).path / MODEL)
    assert open_bundle(packed).model_path("int8").read_bytes() == FILES[MODEL]


def test_what_a_power_cut_left_in_the_cache_does_no_harm_and_goes(packed: Path, cache: Path) -> None:
    digest = open_bundle(packed).digest
    for half in (cache / f".{digest}.part", cache / f".{'0' * 64}.part"):
        shutil.copytree(cache / digest, half)
        (half / MODEL).write_bytes(b"half")
    shutil.rmtree(cache / digest)
    assert open_bundle(packed).model_path("int8").read_bytes() == FILES[MODEL]
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == [digest]


def test_the_next_bundle_removes_those_that_nobody_uses(folder: Path, packed: Path) -> None:
    used = open_bundle(packed)
    others = []
    for version in ("1", "2"):
        newer = write_bundle(folder, MANIFEST.model_copy(update={"name": version}), LABELS, FILES)
        pack_bundle(newer.path, folder.with_name(f"{version}.zip"))
        others.append(open_bundle(folder.with_name(f"{version}.zip")).path)  # which is dropped at once
    assert used.path.exists()
    assert [other.exists() for other in others] == [False, True]


def test_many_that_open_it_at_once_unpack_it_once_and_all_have_it_whole(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []
    unpack = PackedBundle.unpack

    def counted(pack: PackedBundle, folder: Path) -> None:
        unpacked.append(folder)
        unpack(pack, folder)

    monkeypatch.setattr(PackedBundle, "unpack", counted)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_bundle(packed), range(16)))
    assert len(unpacked) == 1
    assert {bundle.model_path("int8").read_bytes() for bundle in opened} == {FILES[MODEL]}


def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"shop\.zip cannot be unpacked: cannot write .* XDG_CACHE_HOME says"):
        open_bundle(packed)


def test_a_user_without_a_home_is_told_of_the_variable(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StorageError, match=r"no home folder to keep anything in: set XDG_CACHE_HOME"):
        open_bundle(packed)


@pytest.fixture
def read_only(cache: Path, packed: Path) -> Iterator[Path]:
    """The cache, with the bundle unpacked, on a file system that cannot be written."""
    open_bundle(packed)
    mount = ["mount", "--bind", "-o", "ro", str(cache), str(cache)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        yield cache
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_bundle_that_is_unpacked_already_needs_no_disk_that_can_be_written(packed: Path, read_only: Path) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "new").touch()
    assert open_bundle(packed).path.parent == read_only


def test_a_full_disk_leaves_nothing_in_the_cache(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = write_bundle(tmp_path / "large", MANIFEST, LABELS, {**FILES, "report/large": bytes(2**17)})
    pack_bundle(large.path, tmp_path / "large.zip")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    with pytest.raises(StorageError, match=r"large\.zip cannot be unpacked: no space left on the disk"):
        open_bundle(tmp_path / "large.zip")
    assert not [entry for entry in (small_disk / "edgebcnn" / "bundles").iterdir() if entry.is_dir()]
    with pytest.raises(StorageError, match="no space left on the disk while writing"):
        pack_bundle(large.path, small_disk / "large.zip")
    assert [entry.name for entry in small_disk.iterdir()] == ["edgebcnn"]


def test_a_packed_bundle_is_replaced_and_nothing_else_ever_is(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack_bundle(folder, packed)
    (tmp_path / "photos.zip").write_bytes(b"photos")
    for taken in (tmp_path / "photos.zip", folder):
        with pytest.raises(BundleError, match="exists and is not a packed bundle: choose another --output or remove"):
            pack_bundle(folder, taken)
    assert (tmp_path / "photos.zip").read_bytes() == b"photos"


def test_what_is_packed_or_broken_is_not_packed(folder: Path, packed: Path) -> None:
    with pytest.raises(BundleError, match=r"shop\.zip is a file, and packed already if it is a bundle: copy it"):
        pack_bundle(packed, folder.with_name("twice.zip"))
    (folder / MODEL).write_bytes(b"other")
    with pytest.raises(BundleError, match="was changed after export"):
        pack_bundle(folder, folder.with_name("broken.zip"))
    assert not [*folder.parent.glob("twice*"), *folder.parent.glob("broken*")]


def test_pack_says_where_it_is_and_check_what_it_would_of_the_folder(tiny: Path) -> None:
    said = typed("pack", "--bundle", tiny.with_name("bundle"), "--json")
    assert said.exit_code == 0, said.stderr
    place = tiny.with_name("bundle.zip")
    result = json.loads(said.stdout)
    assert result == {"packed": str(place), "digest": open_bundle(tiny).digest, "size_bytes": place.stat().st_size}
    assert place.read_bytes() == tiny.read_bytes()

    def verdict(bundle: Path) -> dict[str, Any]:
        checked = typed("check", "--bundle", bundle, "--threads", 1, "--json")
        assert checked.exit_code == 0, checked.stderr
        report: dict[str, Any] = json.loads(checked.stdout)
        return {name: report[name] for name in ("bundle", "receipt", "golden", "accuracy", "agreement", "verdict")}

    assert verdict(place) == verdict(place.with_name("bundle"))


def test_check_refuses_a_packed_bundle_that_was_tampered_with_though_a_good_one_was_unpacked(
    tiny: Path, tmp_path: Path
) -> None:
    good = open_bundle(tiny)
    contents = _contents(tiny.with_name("bundle"))
    other = bytearray(contents[MODEL])
    other[len(other) // 2] ^= 1
    tampered = _write(tmp_path / "tampered.zip", {**contents, MODEL: bytes(other)})
    result = typed("check", "--bundle", tampered)
    assert result.exit_code == BundleError.exit_code
    assert f"Error: {tampered / MODEL} was changed after export (its SHA-256 differs): copy the bundle" in result.stderr
    assert result.stdout == ""
    assert good.path.exists()


def test_every_command_that_takes_a_bundle_takes_it_packed(tiny: Path, tmp_path: Path) -> None:
    photos = tiny.with_name("photos")
    slots = tmp_path / "slots.toml"
    slots.write_text(
        'units = "share"\n[[shelf]]\nname = "1"\n[[shelf.slot]]\nname = "a"\nproduct = "Red"\nbox = [0, 0, 1, 1]\n'
    )
    quick = ("--rounds", 1, "--calls", 1, "--threads", 1, "--precision", "int8")
    for arguments in (
        ("run", "--bundle", tiny, "--camera", photos, "--json"),
        ("benchmark", "--bundle", tiny, *quick, "--json"),
        ("evaluate", tiny, "--data", photos, "--json"),
        ("slots", "check", slots, "--photo", photos / "Red" / "0.png", "--bundle", tiny, "--json"),
    ):
        result = typed(*arguments)
        assert result.exit_code == 0, (arguments, result.stderr)


def test_a_missing_default_names_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = typed("pack")
    assert result.exit_code == BundleError.exit_code
    assert "run edgebcnn train and edgebcnn export --int8 first, or give --bundle" in result.stderr


def test_an_opened_bundle_says_which_file_a_precision_is_missing_from(packed: Path) -> None:
    opened: Bundle = open_bundle(packed)
    with pytest.raises(BundleError, match=r"shop\.zip has no fp16 model"):
        opened.model_path("fp16")
