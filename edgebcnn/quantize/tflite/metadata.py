"""Writes standard TFLite metadata, so that other runtimes know the inputs and outputs from the model file alone.

From standard TFLite metadata, which MediaPipe Tasks and Android's tools read: the model file gains a buffer called
`TFLITE_METADATA`, and a zip archive at its end with the files that the buffer names.

The buffer is a flatbuffer of metadata_schema.fbs, version 1.5.0:
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs
The packages that hold code for it clash with ours, so the few tables that we need are written here.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgebcnn import __version__
from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.calibration.observe import packed

BUFFER_NAME = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
GTINS_FILE = "gtins.txt"

_FIELDS = {
    "ModelMetadata": "name description version subgraph_metadata author license associated_files min_parser_version",
    "SubGraphMetadata": "name description input_tensor_metadata output_tensor_metadata",
    "TensorMetadata": "name description dimension_names content process_units stats associated_files",
    "Content": "content_properties_type content_properties",
    "FeatureProperties": "",
    "ImageProperties": "color_space",
    "ProcessUnit": "options_type options",
    "NormalizationOptions": "mean std",
    "AssociatedFile": "name description type",
}
"""Fields of the schema's tables, in its order, as far as we need them: a field is stored under its place."""

_UNION_TYPES = {"FeatureProperties": 1, "ImageProperties": 2, "NormalizationOptions": 1}
"""Value of a union's type field: the place of its table in the union, counted from 1."""

_RGB = 1  # of ColorSpaceType
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2  # of AssociatedFileType
_OLDEST_PARSER = "1.0.0"  # none of these fields and values came later
_METADATA_IDENTIFIER = b"M001"
_UNIX = 3  # the same wherever the archive is written


def with_metadata(content: bytes, *, name: str, labels: Sequence[Label], preprocessing: Preprocessing) -> bytes:
    """Adds metadata on inputs and outputs to a model file; the same arguments give the same bytes.

    Its version is the start of the SHA-256 of `content`, which tells two models of one name apart.

    Args:
        content: Content of a `.tflite` file from one image to one vector of probabilities.
        name: What a person calls the model.
        labels: Products, in the order of the model's outputs.
        preprocessing: How a photo becomes the input.

    Raises:
        DataError: the name of a product has a line break.
    """
    files = _files(labels)
    subgraph = _Table(
        "SubGraphMetadata",
        input_tensor_metadata=[_image(preprocessing)],
        output_tensor_metadata=[_probabilities(files)],
    )
    model = _Table(
        "ModelMetadata",
        name=name,
        description=f"Tells {len(labels)} products apart. Bilinear CNN, made by edgebcnn {__version__}.",
        version=hashlib.sha256(content).hexdigest()[:12],
        subgraph_metadata=[subgraph],
        min_parser_version=_OLDEST_PARSER,
    )
    return _with_archive(_with_buffer(content, _packed(model)), files)


def _image(preprocessing: Preprocessing) -> _Table:
    fit = {"crop": "cut equally at both ends of its longer side and resized", "stretch": "resized as a whole"}
    size = f"{preprocessing.width_px} x {preprocessing.height_px} pixels"
    normalization = _Table("NormalizationOptions", mean=preprocessing.mean, std=preprocessing.std)
    return _Table(
        "TensorMetadata",
        name="image",
        description=f"RGB photo, {fit[preprocessing.fit]} to {size}.",
        content=_Table("Content", content_properties=_Table("ImageProperties", color_space=_RGB)),
        process_units=[_Table("ProcessUnit", options=normalization)],
    )


def _probabilities(files: Iterable[str]) -> _Table:
    kinds = {
        LABELS_FILE: (_TENSOR_AXIS_LABELS, "Names of the products, one a line."),
        GTINS_FILE: (_DESCRIPTIONS, "GTINs of the same products; an empty line for one without."),
    }
    return _Table(
        "TensorMetadata",
        name="probabilities",
        description=f"Probability of each product in the order of {LABELS_FILE}; their sum is 1.",
        content=_Table("Content", content_properties=_Table("FeatureProperties")),
        associated_files=[
            _Table("AssociatedFile", name=file, description=kinds[file][1], type=kinds[file][0]) for file in files
        ],
    )


def _files(labels: Sequence[Label]) -> dict[str, bytes]:
    files = {LABELS_FILE: _lines(label.name for label in labels)}
    if any(label.gtin for label in labels):
        files[GTINS_FILE] = _lines(label.gtin or "" for label in labels)
    return files


def _lines(texts: Iterable[str]) -> bytes:
    lines = []
    for text in texts:
        if text.splitlines() not in ([], [text]):
            raise DataError(
                f"{text!r} has a line break, but model files keep one line a product: rename it and train again"
            )
        lines.append(text + "\n")
    return "".join(lines).encode()


class _Table:
    """A table of the schema: an int is an enumeration's value, a float stands for a vector of one."""

    def __init__(self, kind: str, **fields: _Value) -> None:
        self.kind = kind
        self.fields = fields


_Value = str | int | float | _Table | Sequence[_Table]


def _packed(root: _Table) -> bytes:
    builder = flatbuffers.Builder()
    builder.Finish(_write_table(builder, root), _METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _write_table(builder: flatbuffers.Builder, table: _Table) -> int:
    # What a table refers to is written before it.
    offsets = {name: _write(builder, value) for name, value in table.fields.items() if not isinstance(value, int)}
    slots = _FIELDS[table.kind].split()
    builder.StartObject(len(slots))
    for name, value in table.fields.items():
        slot = slots.index(name)
        if isinstance(value, int):
            builder.PrependInt8Slot(slot, value, 0)
            continue
        if isinstance(value, _Table) and value.kind in _UNION_TYPES:
            builder.PrependUint8Slot(slot - 1, _UNION_TYPES[value.kind], 0)
        builder.PrependUOffsetTRelativeSlot(slot, offsets[name], 0)
    return int(builder.EndObject())


def _write(builder: flatbuffers.Builder, value: str | float | _Table | Sequence[_Table]) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, float):
        return int(builder.CreateNumpyVector(np.array([value], np.float32)))
    if isinstance(value, _Table):
        return _write_table(builder, value)
    offsets = [_write_table(builder, table) for table in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):  # a vector is written from its end
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _with_buffer(content: bytes, data: bytes) -> bytes:
    """The model file with one more buffer, listed in its metadata."""
    model = schema.ModelT.InitFromPackedBuf(content)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(data, np.uint8)
    entry.name, entry.buffer = BUFFER_NAME, len(model.buffers)
    model.buffers = [*model.buffers, buffer]
    model.metadata = [*(model.metadata or ()), entry]
    return packed(model)


def _with_archive(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """The content with a zip archive at its end, uncompressed, because MediaPipe reads no other."""
    stream = io.BytesIO(content)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w") as archive:
        for name, file in files.items():
            entry = zipfile.ZipInfo(name)  # dated 1980, whenever it is written
            entry.create_system, entry.external_attr = _UNIX, 0o644 << 16
            archive.writestr(entry, file)
    return stream.getvalue()
