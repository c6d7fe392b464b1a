"""A model file says by itself what goes in and what comes out, and computes what it computed before."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers.number_types import Float32Flags, Int8Flags, Uint8Flags
from flatbuffers.table import Table

from edgebcnn.bundle import Label, Precision
from edgebcnn.errors import DataError
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.metadata import with_metadata
from tests.tiny import PREPROCESSING, photos, tanh_tflite

NAMES = ("Crème fraîche, 30 %", "牛乳", "7 Up 330ml", ' "Quoted"', "Zitrone")
LABELS = tuple(Label(name=name) for name in NAMES)
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "float32")


class Reader:
    """One table of the metadata. A field's number is its place in metadata_schema.fbs; a union is two fields."""

    def __init__(self, content: bytes, position: int) -> None:
        """The table at that position."""
        self._table = Table(content, position)

    def _at(self, field: int) -> int:
        offset = int(self._table.Offset(4 + 2 * field))
        assert offset, f"there is no field {field}"
        return offset

    def text(self, field: int) -> str:
        return bytes(self._table.String(self._at(field) + self._table.Pos)).decode()

    def enumeration(self, field: int) -> int:
        return int(self._table.Get(Int8Flags, self._at(field) + self._table.Pos))

    def table(self, field: int) -> Reader:
        return Reader(self._table.Bytes, self._table.Indirect(self._at(field) + self._table.Pos))

    def union(self, field: int, *, kind: int) -> Reader:
        assert self._table.Get(Uint8Flags, self._at(field - 1) + self._table.Pos) == kind
        return self.table(field)

    def floats(self, field: int) -> list[float]:
        start, length = self._table.Vector(self._at(field)), self._table.VectorLen(self._at(field))
        return [self._table.Get(Float32Flags, start + 4 * i) for i in range(length)]

    def tables(self, field: int) -> list[Reader]:
        start, length = self._table.Vector(self._at(field)), self._table.VectorLen(self._at(field))
        return [Reader(self._table.Bytes, self._table.Indirect(start + 4 * i)) for i in range(length)]


def _annotated(precision: Precision = "int8", **changes: Any) -> bytes:
    arguments = {"name": "Kühlregal", "labels": LABELS, "preprocessing": PREPROCESSING, **changes}
    return with_metadata(tanh_tflite(precision), **arguments)


def _metadata(content: bytes) -> Reader:
    model = schema.ModelT.InitFromPackedBuf(content)
    (place,) = [entry.buffer for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    data = bytes(model.buffers[place].data)
    assert data[4:8] == b"M001"
    return Reader(data, int.from_bytes(data[:4], "little"))


def _files(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_input_is_an_rgb_image_with_the_models_normalization(precision: Precision) -> None:
    preprocessing = Preprocessing(height_px=16, width_px=24, fit="stretch", mean=120, std=60)
    (subgraph,) = _metadata(_annotated(precision, preprocessing=preprocessing)).tables(3)
    (image,) = subgraph.tables(2)
    assert (image.text(0), image.text(1)) == ("image", "RGB photo, resized as a whole to 24 x 16 pixels.")
    assert image.table(3).union(1, kind=2).enumeration(0) == 1
    (unit,) = image.tables(4)
    normalization = unit.union(1, kind=1)
    assert (normalization.floats(0), normalization.floats(1)) == ([120], [60])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_output_is_a_probability_of_each_label(precision: Precision) -> None:
    content = _annotated(precision)
    (subgraph,) = _metadata(content).tables(3)
    (probabilities,) = subgraph.tables(3)
    assert probabilities.text(0) == "probabilities"
    assert probabilities.table(3).union(1, kind=1)
    (labels,) = probabilities.tables(6)
    assert labels.enumeration(2) == 2
    assert _files(content) == {labels.text(0): "".join(f"{name}\n" for name in NAMES)}


def test_gtins_lie_beside_the_labels_where_there_are_any() -> None:
    content = _annotated(labels=[Label(name="Milk", gtin="7394376616037"), Label(name="Loose carrots")])
    assert _files(content) == {"labels.txt": "Milk\nLoose carrots\n", "gtins.txt": "7394376616037\n\n"}
    (subgraph,) = _metadata(content).tables(3)
    (probabilities,) = subgraph.tables(3)
    assert [(file.text(0), file.enumeration(2)) for file in probabilities.tables(6)] == [
        ("labels.txt", 2),
        ("gtins.txt", 1),
    ]


def test_a_model_has_its_name_and_a_version_that_only_its_content_changes() -> None:
    int8, renamed, float32 = (
        _metadata(content) for content in (_annotated(), _annotated(name="Shelf"), _annotated("float32"))
    )
    assert (int8.text(0), renamed.text(0)) == ("Kühlregal", "Shelf")
    assert int8.text(2) == renamed.text(2) != float32.text(2)
    assert int8.text(1).startswith("Tells 5 products apart")
    assert int8.text(7) == "1.0.0"


def test_the_same_arguments_give_the_same_bytes_at_any_time_on_any_system() -> None:
    content = _annotated()
    assert content == _annotated()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (labels,) = archive.infolist()
    assert (labels.date_time, labels.create_system) == ((1980, 1, 1, 0, 0, 0), 3)
    assert labels.compress_type == zipfile.ZIP_STORED, "MediaPipe reads no other"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_model_is_what_it_was(precision: Precision) -> None:
    before, after = tanh_tflite(precision), _annotated(precision)
    assert audit(after) == audit(before)
    plain, annotated = Interpreter(model_content=before), Interpreter(model_content=after)
    assert annotated.get_signature_list() == plain.get_signature_list()
    assert list(annotated.get_signature_list()) == ["serving_default"]
    for photo in photos(16, seed=1)[:, np.newaxis]:
        image = photo if precision == "int8" else PREPROCESSING.normalize(photo)
        outputs = [model.get_signature_runner()(image=image)["probabilities"] for model in (plain, annotated)]
        np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("line_break", ["\n", "\r", "\u2028"])
@pytest.mark.parametrize("name", ["Oat{}Milk", "Milk{}"])
def test_a_name_of_two_lines_would_shift_all_labels_after_it_and_is_refused(name: str, line_break: str) -> None:
    with pytest.raises(DataError, match=r"^'.*Milk.*' has a line break, .* rename it and train again$"):
        _annotated(labels=[Label(name=name.format(line_break)), *LABELS[1:]])
