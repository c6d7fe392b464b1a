"""What travels to the device: a folder that says what it holds and can prove it.

    bundle.json             what follows, with a SHA-256 of every other file and of itself
    labels.json             the products in the order of the model's outputs
    model.<precision>.tflite   usable alone by any TFLite runtime
    full.tflite             the full model in float, where export was asked for it
    golden.npz              labelled photos with the full, compact and edge models' probabilities
    report/                 accuracy and agreement at export

Packed, it is one zip file (`edgebcnn.pack`), which is checked where it lies and unpacked into the cache.

`docs/bundle.md` describes each field. Nothing is guessed: a bundle that lacks a field, has one too many, or differs by
one byte from what its maker wrote is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgebcnn.atomic import json_bytes, replacing_file, replacing_folder
from edgebcnn.cache import KeptFolder, kept_folder
from edgebcnn.errors import BundleError, StorageError
from edgebcnn.pack import PackedBundle, write_archive
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.untrusted.files import MAX_BYTES, json_of, open_file

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 lacks `scores`."""
MANIFEST_NAME = "bundle.json"
LABELS_NAME = "labels.json"
GOLDEN_NAME = "golden.npz"
FULL_NAME = "full.tflite"
REPORT_NAME = "report/report.json"
PAGE_NAME = "report/index.html"

_CHUNK_BYTES = 2**20

Precision = Literal["int8", "mixed", "int16", "dynamic", "fp16", "float32"]
CalibrationSource = Literal["train", "captured"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Label(_Strict):
    """One product. Its place in the list is its class id.

    Attributes:
        name: What a person calls it; unique in a bundle.
        gtin: GTIN/UPC, where the data set has one.
        coarse: Coarser class (`Milk` for `Oatly-Oat-Milk`), where the data set has one.
    """

    name: str = Field(min_length=1)
    gtin: str | None = None
    coarse: str | None = None


_LABELS = TypeAdapter(tuple[Label, ...])


class Tensor(_Strict):
    """Input or output of a model file: `real = (quantized - zero_point) * scale` where `dtype` is an integer."""

    dtype: Literal["uint8", "int8", "float32"]
    scale: float | None = None
    zero_point: int | None = None


class ModelFile(_Strict):
    """One `.tflite` file of a bundle."""

    file: str
    input: Tensor
    output: Tensor
    integer_only: bool
    float_ops: tuple[str, ...] = ()


class CalibrationRecord(_Strict):
    """What the int8 ranges were measured on.

    Attributes:
        recipe: Name of the calibration recipe.
        seed: Seed of the choice.
        source: Where the photos are from: `train`, or `captured` on the device.
        photo_sha256: SHA-256 of each chosen photo.
    """

    recipe: str
    seed: int
    source: CalibrationSource = "train"
    photo_sha256: tuple[str, ...]


class ScoreCalibration(_Strict):
    """How the scores of a bundle's models became probabilities, and from which score a product is named.

    Attributes:
        temperature: T of the compact model, folded into its classifier (Guo et al. 2017).
        full_temperature: T of the full model.
        split: Held-out photos that both were fitted on: `val`, or `test` where there was no val.
        photos: How many.
        min_score: Score that `kept` of the held-out photos of known products reach; below it a product is unknown.
        kept: Their share, 0-1, with the ends of its 95 % interval.
        kept_low: Lower end.
        kept_high: Upper end.
        kept_photos: How many photos there were.
    """

    temperature: float = Field(gt=0)
    full_temperature: float = Field(gt=0)
    split: Literal["val", "test"]
    photos: int = Field(ge=1)
    min_score: float = Field(ge=0, le=1)
    kept: float = Field(ge=0, le=1)
    kept_low: float = Field(ge=0, le=1)
    kept_high: float = Field(ge=0, le=1)
    kept_photos: int = Field(ge=1)

    def __str__(self) -> str:
        """`calibrated (temperature 0.54, 96 photos of val) · unknown below 41 %, which keeps 95 % of known (n=80)`."""
        return (
            f"calibrated (temperature {self.temperature:.2f}, {self.photos} photos of {self.split}) · "
            f"unknown below {100 * self.min_score:.0f} %, "
            f"which keeps {100 * self.kept:.1f} % of known (n={self.kept_photos})"
        )


class Manifest(_Strict):
    """`bundle.json`, less the digests.

    `full` is the full model in float, for devices that can run it beside the loop. Without `scores`, the scores of its
    models are not calibrated.
    """

    schema_version: int
    name: str
    edgebcnn_version: str
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    models: dict[Precision, ModelFile] = Field(min_length=1)
    full: ModelFile | None = None
    calibration: CalibrationRecord | None = None
    scores: ScoreCalibration | None = None
    tools: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked when it was opened.

    Attributes:
        path: Folder with its files; of a packed bundle, where they were unpacked.
        manifest: What it holds.
        labels: Products, in the order of the model's outputs.
        digest: Its identity, the same for the folder and the packed file.
        packed: The file that it came in; None for a folder.
        unpacked: Keeps the unpacked files; None for a folder.
    """

    path: Path
    manifest: Manifest
    labels: tuple[Label, ...]
    digest: str
    packed: Path | None = None
    unpacked: KeptFolder | None = field(default=None, repr=False, compare=False)

    @property
    def given(self) -> Path:
        """What a user calls it: the folder, or the packed file."""
        return self.packed or self.path

    def model_path(self, precision: Precision) -> Path:
        """Path of the model file of that precision.

        Raises:
            BundleError: the bundle has no such precision.
        """
        if precision not in self.manifest.models:
            have = ", ".join(sorted(self.manifest.models))
            raise BundleError(f"{self.given} has no {precision} model, it has {have}: export it with --{precision}")
        return self.path / self.manifest.models[precision].file


def write_bundle(path: Path, manifest: Manifest, labels: Sequence[Label], files: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle in place of whatever bundle `path` held.

    Args:
        path: Folder to create or replace.
        manifest: What the bundle holds; every model file that it names must be in `files`.
        labels: Products, in the order of the model's outputs.
        files: Content by path relative to the bundle, `/` between folders.

    Raises:
        BundleError: `path` holds something that is not a bundle, or two labels have one name.
        StorageError: the disk is full, or the path cannot be written.
    """
    check_destination(path)
    _check_that_names_are_unique(path / LABELS_NAME, labels)
    contents = {LABELS_NAME: json_bytes([label.model_dump(exclude_none=True) for label in labels]), **files}
    _check_that_models_are_listed(path, manifest, contents)
    document = manifest.model_dump(mode="json", exclude_none=True)
    document["files"] = {name: _sha256(content) for name, content in sorted(contents.items())}
    document["digest"] = _document_digest(document)
    with replacing_folder(path) as part:
        for name, content in {**contents, MANIFEST_NAME: json_bytes(document)}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
    return open_bundle(path)


def open_bundle(path: Path) -> Bundle:
    """Opens a bundle, a folder or a packed file, and checks every byte of it.

    A packed one is unpacked into the cache, once; what lies there is checked each time as well.

    Raises:
        BundleError: no bundle there, another version, a field that does not fit, a name given twice, a file missing or
            changed.
        StorageError: a packed bundle cannot be unpacked.
    """
    if not _is_file(path):
        return _checked(path, _Folder(path))
    with closing(PackedBundle(path)) as pack:
        return _unpacked(_checked_pack(path, pack), pack)


def pack_bundle(path: Path, output: Path) -> Bundle:
    """Writes a bundle as one file: a zip archive, of the same bytes for the same bundle.

    Args:
        path: Folder of the bundle.
        output: File to create, or to replace where it is a packed bundle.

    Returns:
        The bundle, of which every byte was checked, as it lies in the folder.

    Raises:
        BundleError: there is no whole bundle, it is packed already, or `output` holds something else.
        StorageError: the disk is full, or `output` cannot be written.
    """
    if _is_file(path):
        raise BundleError(f"{path} is a file, and packed already if it is a bundle: copy it")
    bundle = open_bundle(path)
    _check_pack_destination(output)
    contents = {name: (path / name).read_bytes() for name in _packed_names(_Folder(path))}
    with replacing_file(output) as part:
        write_archive(part, contents)
        with closing(PackedBundle(part)) as pack:
            _checked_pack(output, pack)
    return bundle


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle, packed or not; `open_bundle` says whether it is a whole one."""
    return _is_file(path) or (path / MANIFEST_NAME).is_file()


def check_destination(path: Path) -> None:
    """Checks that a bundle may be written to `path`: there is nothing, an empty folder, or a bundle to replace.

    Raises:
        BundleError: `path` holds something that is not a bundle.
    """
    is_free = not any(path.iterdir()) if path.is_dir() else not path.exists()
    if not is_free and not (path / MANIFEST_NAME).is_file():
        raise BundleError(f"{path} exists and is not a bundle: choose another --output or remove it")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # `Path.is_file` fails where a folder above it may not be entered


class _Contents(Protocol):
    """The files of a bundle, whatever they lie in."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, part by part; an `OSError` where it cannot be read."""
        ...


@dataclass(frozen=True)
class _Folder:
    path: Path

    def chunks(self, name: str) -> Iterator[bytes]:
        with open_file(self.path / name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


def _checked(path: Path, contents: _Contents) -> Bundle:
    document = _read_document(path, contents)
    digest, files = document.pop("digest"), document["files"]
    if digest != _document_digest(document):
        raise BundleError(f"{path / MANIFEST_NAME} was changed after export: copy the bundle again")
    for name, expected in files.items():
        _check_name(path, name)
        _check_file(path / name, contents.chunks(name), expected)
    del document["files"]
    manifest = _validated_manifest(path, document)
    _check_that_models_are_listed(path, manifest, files)
    try:
        labels = _read_labels(path / LABELS_NAME, _read(contents, LABELS_NAME))
    except OSError as error:
        raise BundleError(f"{path / LABELS_NAME} cannot be read ({error.strerror}): copy the bundle again") from error
    return Bundle(path, manifest, labels, digest)


def _checked_pack(path: Path, pack: PackedBundle) -> Bundle:
    bundle = _checked(path, pack)
    if set(pack.names) != set(_packed_names(pack)):
        raise BundleError(f"{path} holds other files than its {MANIFEST_NAME} names: pack its folder again")
    return replace(bundle, packed=path)


def _packed_names(contents: _Contents) -> tuple[str, ...]:
    """What a packed bundle holds, in its order."""
    return (MANIFEST_NAME, *sorted(json_of(_read(contents, MANIFEST_NAME))["files"]))


def _unpacked(bundle: Bundle, pack: PackedBundle) -> Bundle:
    def is_whole(folder: Path) -> bool:
        try:
            return _checked(folder, _Folder(folder)).digest == bundle.digest
        except BundleError:
            return False

    def fill(folder: Path) -> None:
        pack.unpack(folder)
        if not is_whole(folder):
            raise BundleError(f"{bundle.given} changed while it was unpacked: try again")

    try:
        kept = kept_folder("bundles", bundle.digest, is_whole=is_whole, fill=fill)
    except StorageError as error:
        raise StorageError(
            f"{bundle.given} cannot be unpacked: {error} (the cache is where XDG_CACHE_HOME says; "
            "a folder that you unzip yourself needs none)"
        ) from error
    return replace(bundle, path=kept.path, unpacked=kept)


def _check_pack_destination(path: Path) -> None:
    try:
        if path.exists():
            PackedBundle(path).close()
    except BundleError:
        raise BundleError(f"{path} exists and is not a packed bundle: choose another --output or remove it") from None


def _check_that_models_are_listed(path: Path, manifest: Manifest, files: Container[str]) -> None:
    models = (*manifest.models.values(), *filter(None, (manifest.full,)))
    for name in (LABELS_NAME, *(model.file for model in models)):
        if name not in files:
            raise BundleError(f"{path / MANIFEST_NAME} has no digest of {name}: export the bundle again")


def _read_document(path: Path, contents: _Contents) -> dict[str, Any]:
    file = path / MANIFEST_NAME
    try:
        content = _read(contents, MANIFEST_NAME)
        document = json_of(content)
        # The digest is of the values; a space that became a newline shows only in the bytes.
        is_as_written = content == json_bytes(document)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path} is not a bundle (no {MANIFEST_NAME}): make one with edgebcnn export") from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read ({error.strerror}): copy the bundle again") from error
    except ValueError as error:
        raise BundleError(f"{file}: {error}; copy the bundle again") from error
    if not isinstance(document, dict) or not _has_digests(document):
        raise BundleError(f"{file} is not a bundle's manifest: copy the bundle again")
    version = document.get("schema_version")
    if version not in READABLE_VERSIONS:
        raise BundleError(
            f"{file} has schema version {version!r:.40}, this edgebcnn reads {SCHEMA_VERSION} and older: "
            "export again with this version, or install the one that made it"
        )
    if not is_as_written:
        raise BundleError(f"{file} was changed after export: copy the bundle again")
    return document


def _has_digests(document: dict[str, Any]) -> bool:
    files = document.get("files")
    return isinstance(files, dict) and all(isinstance(each, str) for each in (*files.values(), document.get("digest")))


def _check_name(path: Path, name: str) -> None:
    place = PurePosixPath(name)
    if str(place) != name or not place.name or place.is_absolute() or ".." in place.parts or not name.isprintable():
        raise BundleError(
            f"{path / MANIFEST_NAME} names {name!r}, which is no file within a bundle: export the bundle again"
        )


def _check_file(file: Path, chunks: Iterator[bytes], expected: str) -> None:
    digest = hashlib.sha256()
    try:
        for chunk in chunks:
            digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{file} is missing or unreadable ({error.strerror}): copy the bundle again") from error
    if digest.hexdigest() != expected:
        raise BundleError(f"{file} was changed after export (its SHA-256 differs): copy the bundle again")


def _read(contents: _Contents, name: str) -> bytes:
    parts, size = [], 0
    for chunk in contents.chunks(name):
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES >> 20} MB", name)
    return b"".join(parts)


def _validated_manifest(path: Path, document: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        field = _dotted(first["loc"])
        raise BundleError(f"{path / MANIFEST_NAME}, field {field}: {first['msg']}; export the bundle again") from error


def _read_labels(file: Path, content: bytes) -> tuple[Label, ...]:
    try:
        labels = _LABELS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise BundleError(f"{file} is not a list of labels ({first['msg']}): export the bundle again") from error
        index, *field = first["loc"]
        where = f"entry {int(index) + 1}" + (f", field {_dotted(field)}" if field else "")
        raise BundleError(f"{file}, {where}: {first['msg']}; export the bundle again") from error
    _check_that_names_are_unique(file, labels)
    return labels


def _check_that_names_are_unique(file: Path, labels: Sequence[Label]) -> None:
    entries: dict[str, int] = {}
    for entry, label in enumerate(labels, start=1):
        if (first := entries.setdefault(label.name, entry)) != entry:
            raise BundleError(
                f"{file}, entries {first} and {entry}: both are named {label.name!r}; rename one and export again"
            )


def _dotted(place: Sequence[int | str]) -> str:
    """`models.int8.file`, on one line even if somebody put a line break into a field's name."""
    return " ".join(".".join(map(str, place)).split())


def _document_digest(document: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
