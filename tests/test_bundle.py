"""A bundle is read back as it was written, or refused with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebcnn import bundle as bundle_module
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import (
    GOLDEN_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Bundle,
    CalibrationRecord,
    Label,
    Manifest,
    ModelFile,
    Tensor,
    open_bundle,
    write_bundle,
)
from edgebcnn.errors import BundleError
from edgebcnn.preprocessing import Preprocessing

DOCUMENT = Path(__file__).parents[1] / "docs" / "bundle.md"
LABELS = (Label(name="7 Up 330ml", gtin="05449000012203"), Label(name="Mjölk 3 %", coarse="Milk"))
MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    name="tiny",
    edgebcnn_version="0.1.0",
    architecture={"streams": "mobilenet_v2", "rank": 8},
    preprocessing=Preprocessing(height_px=32, width_px=48, mean=127.5, std=1e-05),
    models={
        "int8": ModelFile(
            file="model.int8.tflite",
            input=Tensor(dtype="uint8", scale=1 / 127.5, zero_point=127),
            output=Tensor(dtype="uint8", scale=1 / 256, zero_point=0),
            integer_only=True,
        )
    },
    calibration=CalibrationRecord(recipe="balanced", seed=3, photo_sha256=("ab" * 32,)),
    tools={"tensorflow": "2.21.0"},
)
FILES = {"model.int8.tflite": bytes(range(64)), GOLDEN_NAME: b"golden", "report/report.json": b"{}\n"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", MANIFEST, LABELS, FILES).path


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _rewrite(path: Path, **changes: Any) -> None:
    """Changes fields of `bundle.json` as somebody would who can compute its digest."""
    document = {**json.loads((path / MANIFEST_NAME).read_bytes()), **changes}
    del document["digest"]
    document["digest"] = bundle_module._document_digest(document)
    (path / MANIFEST_NAME).write_bytes(json_bytes(document))


def test_a_bundle_is_read_back_as_it_was_written(path: Path) -> None:
    opened = open_bundle(path)
    assert opened == Bundle(path, MANIFEST, LABELS, opened.digest)
    assert {str(file.relative_to(path)) for file in _files(path)} == {MANIFEST_NAME, LABELS_NAME, *FILES}
    assert opened.model_path("int8").read_bytes() == FILES["model.int8.tflite"]


def test_the_same_content_has_the_same_digest_and_another_content_another(tmp_path: Path, path: Path) -> None:
    digest = open_bundle(path).digest
    assert write_bundle(tmp_path / "same", MANIFEST, LABELS, FILES).digest == digest
    assert write_bundle(tmp_path / "other", MANIFEST, LABELS[::-1], FILES).digest != digest


def _replacements(byte: int, rng: np.random.Generator) -> set[int]:
    """Another byte; where JSON may not tell the difference, the other case of a letter and other white space."""
    if byte in b" \n":
        return {*b" \n\t\r"} - {byte}
    return {byte ^ 0x20} if chr(byte).isalpha() else {(byte + int(rng.integers(1, 256))) % 256}


def test_every_changed_byte_is_refused(path: Path, rng: np.random.Generator) -> None:
    accepted = []
    for file in _files(path):
        content = file.read_bytes()
        for position, byte in enumerate(content):
            for other in _replacements(byte, rng):
                file.write_bytes(content[:position] + bytes([other]) + content[position + 1 :])
                try:
                    open_bundle(path)
                except BundleError:
                    continue
                accepted.append((file.name, position, byte, other))
        file.write_bytes(content)
    assert not accepted
    open_bundle(path)


def test_every_missing_or_shortened_file_is_refused(path: Path) -> None:
    for file in _files(path):
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        with pytest.raises(BundleError, match="copy the bundle again"):
            open_bundle(path)
        file.unlink()
        with pytest.raises(BundleError, match=file.name):
            open_bundle(path)
        file.write_bytes(content)
    open_bundle(path)


def test_a_bundle_of_the_version_without_calibrated_scores_is_read(path: Path) -> None:
    _rewrite(path, schema_version=1)
    assert open_bundle(path).manifest.scores is None


def test_a_folder_or_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").touch()
    for path in (tmp_path, tmp_path / "model.tflite", tmp_path / "missing"):
        with pytest.raises(BundleError, match=f"{path.name} is not a bundle .*make one with edgebcnn export"):
            open_bundle(path)


def test_a_manifest_that_is_another_document_is_refused(tmp_path: Path) -> None:
    for content in (b"[]", b"{}", b'{"digest": 1, "files": []}', b"NaN", b"\xff"):
        (tmp_path / MANIFEST_NAME).write_bytes(content)
        with pytest.raises(BundleError, match="copy the bundle again"):
            open_bundle(tmp_path)


def test_a_bundle_of_another_version_is_refused_with_both_versions(path: Path) -> None:
    _rewrite(path, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(BundleError, match=f"version {SCHEMA_VERSION + 1}, this edgebcnn reads {SCHEMA_VERSION}"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"colour": "BGR"}, "colour"), ({"name": 7}, "name"), ({"preprocessing": {"height_px": 32}}, "width_px")],
)
def test_a_field_too_many_or_missing_or_of_another_type_is_named(
    path: Path, changes: dict[str, Any], field: str
) -> None:
    _rewrite(path, **changes)
    with pytest.raises(BundleError, match=rf"bundle\.json, field (\w+\.)?{field}: .*; export the bundle again"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"name": "Red"}, {"name": 7}]', r", entry 2, field name: .*string"),
        ('[{"name": ""}]', r", entry 1, field name: .*at least 1 character"),
        ('[{"gtin": null}]', r", entry 1, field name: .*required"),
        ('[{"name": "Red", "co\\nlour": 1}, {}]', r", entry 1, field co lour: .*not permitted"),
        ('[{"name": "Red"}, "Green"]', r", entry 2: .*object"),
        ('{"name": "Red"}', r" is not a list of labels \(.*\)"),
        ('[{"name": "Red"}', r" is not a list of labels \(.*\)"),
        ('[{"name": "A"}, {"name": "B"}, {"name": "A"}]', r", entries 1 and 3: both are named 'A'; rename one"),
    ],
)
def test_labels_that_do_not_fit_are_named_by_entry_and_field_on_one_line(
    path: Path, content: str, problem: str
) -> None:
    (path / LABELS_NAME).write_text(content)
    files = json.loads((path / MANIFEST_NAME).read_bytes())["files"]
    _rewrite(path, files=files | {LABELS_NAME: bundle_module._sha256(content.encode())})
    with pytest.raises(BundleError, match=rf"^\S+labels\.json{problem}.* export (the bundle )?again$") as refusal:
        open_bundle(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_two_products_of_one_name_are_not_written(path: Path) -> None:
    before = {file: file.read_bytes() for file in _files(path)}
    with pytest.raises(BundleError, match=r"labels\.json, entries 1 and 3: both are named '7 Up 330ml'; rename one"):
        write_bundle(path, MANIFEST, (*LABELS, LABELS[0]), FILES)
    assert {file: file.read_bytes() for file in _files(path)} == before


def test_a_model_file_outside_the_digests_is_refused(path: Path) -> None:
    models = {"int8": MANIFEST.models["int8"].model_dump(mode="json", exclude_none=True) | {"file": "../other.tflite"}}
    _rewrite(path, models=models)
    with pytest.raises(BundleError, match=r"has no digest of \.\./other\.tflite"):
        open_bundle(path)


def test_a_manifest_that_names_a_model_nobody_gave_is_not_written(path: Path) -> None:
    before = {file: file.read_bytes() for file in _files(path)}
    with pytest.raises(BundleError, match=r"has no digest of model\.int8\.tflite"):
        write_bundle(path, MANIFEST, LABELS, {GOLDEN_NAME: b"golden"})
    assert {file: file.read_bytes() for file in _files(path)} == before


def test_a_bundle_replaces_a_bundle_and_nothing_of_the_old_one_stays(path: Path) -> None:
    write_bundle(path, MANIFEST, LABELS, {"model.int8.tflite": b"new"})
    assert {file.name for file in _files(path)} == {MANIFEST_NAME, LABELS_NAME, "model.int8.tflite"}


def test_a_bundle_fills_an_empty_folder(tmp_path: Path) -> None:
    assert write_bundle(tmp_path, MANIFEST, LABELS, FILES).labels == LABELS


def test_a_bundle_never_replaces_something_else(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"photo")
    for path in (photos, photos / "a.jpg"):
        with pytest.raises(BundleError, match="exists and is not a bundle: choose another --output"):
            write_bundle(path, MANIFEST, LABELS, FILES)
    assert (photos / "a.jpg").read_bytes() == b"photo"


def test_a_precision_that_the_bundle_lacks_is_named_with_those_it_has(path: Path) -> None:
    with pytest.raises(BundleError, match="has no fp16 model, it has int8: export it with --fp16"):
        open_bundle(path).model_path("fp16")


def test_the_documentation_names_every_field() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    models = (Manifest, Label, ModelFile, Tensor, CalibrationRecord, Preprocessing)
    missing = [
        f"{model.__name__}.{name}" for model in models for name in model.model_fields if f"`{name}`" not in document
    ]
    assert not missing, "describe these in docs/bundle.md"


def test_the_example_of_the_documentation_is_a_manifest() -> None:
    (example,) = re.findall(r"```json\n(\{.*?\n\})\n```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    document = json.loads(example)
    assert set(document) - set(Manifest.model_fields) == {"files", "digest"}
    del document["files"], document["digest"]
    assert Manifest.model_validate_json(json.dumps(document)).models["int8"].integer_only
