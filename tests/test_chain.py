"""Train, export and run, typed one after the other without paths; and the loop says what batch inference says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import open_run
from tests.typing_in import typed


def test_the_bundle_lies_where_run_looks_for_it(shop: Path) -> None:
    result = typed(shop, "run", "--camera", "data/test", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["classified"] == summary["accuracy"]["n"] == 36


@pytest.mark.parametrize("precision", ["int8", "fp16", "float32"])
def test_the_loop_says_of_every_photo_what_batch_inference_says(shop: Path, precision: str) -> None:
    events = f"{precision}.jsonl"
    assert typed(shop, "run", "--camera", "data/test", "--precision", precision, "--jsonl", events).exit_code == 0
    readings = [json.loads(line) for line in (shop / events).read_text().splitlines()]
    photos = sorted(open_run(shop / "runs" / "latest").dataset.test, key=lambda photo: photo.path)
    bundle = open_bundle(shop / "runs" / "latest" / "bundle")
    classifier = Classifier.from_bundle(bundle, precision=precision)  # type: ignore[arg-type]
    batch = classifier.probabilities(PreparedPhotos(photos, bundle.manifest.preprocessing)[:])
    assert [reading["class_id"] for reading in readings] == batch.argmax(axis=1).tolist()
    # The record keeps a few decimals of what is otherwise the same number.
    np.testing.assert_allclose([reading["score"] for reading in readings], batch.max(axis=1), atol=1e-4)


def test_golden_photos_give_the_recorded_outputs_again(shop: Path) -> None:
    bundle = open_bundle(shop / "runs" / "latest" / "bundle")
    with np.load(bundle.path / "golden.npz") as golden:
        again = Classifier.from_bundle(bundle, precision="int8").probabilities(golden["pixels"])
        np.testing.assert_array_equal(np.round(again * 256), golden["edge_int8"])


def test_float_models_differ_from_the_compact_model_by_rounding_alone(shop: Path) -> None:
    bundle = open_bundle(shop / "runs" / "latest" / "bundle")
    with np.load(bundle.path / "golden.npz") as golden:
        float32 = Classifier.from_bundle(bundle, precision="float32").probabilities(golden["pixels"])
        fp16 = Classifier.from_bundle(bundle, precision="fp16").probabilities(golden["pixels"])
        np.testing.assert_allclose(float32, golden["compact"], atol=1e-4)
        # Half precision has 11 bits: weights are off by up to 1/2048 of themselves, and a softmax by little more.
        np.testing.assert_allclose(fp16, golden["compact"], atol=0.02)
