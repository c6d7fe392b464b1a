"""A real bundle with golden photos whose answers are known beforehand: it tells red, green, blue and grey frames apart.

`python -m tests.tiny_bundle DIR` writes `DIR/bundle`, `DIR/photos` and `DIR/shelf.avi` with its truth, for machines
without TensorFlow.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn import __version__
from edgebcnn.bundle import (
    GOLDEN_NAME,
    SCHEMA_VERSION,
    Bundle,
    Label,
    Manifest,
    ModelFile,
    Precision,
    Tensor,
    write_bundle,
)
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.sources.truth import write_truth

INPUT_PX = 32
LABELS = (Label(name="Red", gtin="00000000000017"), Label(name="Green"), Label(name="Blue"), Label(name="Grey"))
COLOURS_BGR = {"Red": (30, 30, 220), "Green": (30, 220, 30), "Blue": (220, 30, 30), "Grey": (128, 128, 128)}

# A colour's logit is how far its channel stands out from the two others; grey wins where none does.
CONTRAST = 3 * np.array([[2, -1, -1, 0], [-1, 2, -1, 0], [-1, -1, 2, 0]], np.float32)
GREY_LOGIT = np.array([0, 0, 0, 3], np.float32)


def make_tiny_bundle(path: Path, precisions: Sequence[Precision] = ("int8", "float32")) -> Bundle:
    """Writes the bundle to `path`; the models are converted once a process, in a few seconds."""
    models = {precision: tiny_model(precision) for precision in precisions}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        edgebcnn_version=__version__,
        architecture={"kind": "mean colour"},
        preprocessing=Preprocessing(height_px=INPUT_PX, width_px=INPUT_PX),
        models={precision: _model_file(precision) for precision in precisions},
        tools={},
    )
    files = {_model_file(precision).file: content for precision, content in models.items()}
    files[GOLDEN_NAME] = tiny_golden(manifest.preprocessing, precisions)
    return write_bundle(path, manifest, LABELS, files)


def tiny_golden(preprocessing: Preprocessing, precisions: Sequence[Precision], *, per_label: int = 3) -> bytes:
    """`golden.npz`: photos of each label, with the probabilities that the weights mean."""
    rng = np.random.default_rng(13)
    class_ids = np.arange(len(LABELS)).repeat(per_label)
    pixels = np.stack([preprocessing.apply(coloured(LABELS[class_id].name, rng)) for class_id in class_ids])
    probabilities = meant_probabilities(pixels)
    edges = {f"edge_{precision}": probabilities for precision in precisions}
    if "edge_int8" in edges:
        edges["edge_int8"] = np.clip(np.round(probabilities * 256), 0, 255).astype(np.uint8)
    archive = io.BytesIO()
    arrays: dict[str, Any] = {"full": probabilities, "compact": probabilities, **edges}
    np.savez_compressed(archive, pixels=pixels, class_ids=class_ids, **arrays)
    return archive.getvalue()


def meant_probabilities(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(n, 4)` float32: what the weights make of `(n, h, w, 3)` prepared pixels."""
    logits = ((pixels_rgb.mean(axis=(1, 2)) - 127.5) / 127.5) @ CONTRAST + GREY_LOGIT
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


@cache
def tiny_model(precision: Precision) -> bytes:
    """`.tflite` file: mean colour, one dense layer with known weights, softmax."""
    import tensorflow as tf

    class MeanColour(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, INPUT_PX, INPUT_PX, 3), tf.float32, name="image")])  # type: ignore[untyped-decorator]
        def serve(self, image: Any) -> dict[str, Any]:
            logits = tf.reduce_mean(image, axis=(1, 2)) @ CONTRAST + GREY_LOGIT
            return {"probabilities": tf.nn.softmax(logits)}

    module = MeanColour()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        corners = np.array(list(np.ndindex(2, 2, 2)), np.float32) * 2 - 1
        converter.representative_dataset = lambda: (
            [np.broadcast_to(corner, (1, INPUT_PX, INPUT_PX, 3)).copy()] for corner in corners
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    content: bytes = converter.convert()
    return content


def coloured(label: str, rng: np.random.Generator, *, height_px: int = 48, width_px: int = 64) -> NDArray[np.uint8]:
    """`(height_px, width_px, 3)` uint8 BGR: the label's colour with noise."""
    noise = rng.normal(0, 25, (height_px, width_px, 3))
    return np.clip(COLOURS_BGR[label] + noise, 0, 255).astype(np.uint8)


def write_photos(folder: Path, *, per_label: int = 3) -> None:
    """Writes `folder/<label>/<n>.png`."""
    rng = np.random.default_rng(7)
    for label in COLOURS_BGR:
        (folder / label).mkdir(parents=True)
        for number in range(per_label):
            assert cv2.imwrite(str(folder / label / f"{number}.png"), coloured(label, rng))


def write_video(path: Path, labels: Sequence[str], *, codec: str = "FFV1") -> list[NDArray[np.uint8]]:
    """Writes a video that shows `labels` frame by frame, and returns the frames."""
    rng = np.random.default_rng(11)
    frames = [coloured(label, rng) for label in labels]
    height_px, width_px = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (width_px, height_px))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


def _model_file(precision: Precision) -> ModelFile:
    quantized = precision == "int8"
    return ModelFile(
        file=f"model.{precision}.tflite",
        input=Tensor(dtype="uint8", scale=1 / 127.5, zero_point=127) if quantized else Tensor(dtype="float32"),
        output=Tensor(dtype="uint8", scale=1 / 256, zero_point=0) if quantized else Tensor(dtype="float32"),
        integer_only=quantized,
    )


def main(folder: Path) -> None:
    """Writes a bundle, a folder of photos and a video with its truth."""
    make_tiny_bundle(folder / "bundle")
    write_photos(folder / "photos")
    labels = [label.name for label in LABELS] * 5
    write_video(folder / "shelf.avi", labels)
    write_truth(folder / "shelf.avi", labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
