"""MediaPipe Tasks, in an environment of its own, names photos as we do from the model file alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from edgebcnn.bundle import open_bundle
from edgebcnn.device.classifier import Classifier

READER = Path(__file__).with_name("mediapipe_reader.py")

# MediaPipe prepares a photo itself, even one of the right size: an int8 score may be one step off, not two.
TOLERANCES = {"int8": 1 / 256, "fp16": 1e-4, "float32": 1e-4}


@pytest.fixture(scope="module", params=["0.10.21", "1.2.2"])
def mediapipe_python(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The Python of an environment with MediaPipe, whose OpenCV clashes with ours; removed afterwards."""
    with TemporaryDirectory(prefix="mediapipe") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        packages = ["--disable-pip-version-check", "--retries", "1", f"mediapipe=={request.param}"]
        installed = subprocess.run([python, "-m", "pip", "install", *packages], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"pip cannot fetch MediaPipe {request.param}: {installed.stderr.strip().splitlines()[-1]}")
        imported = subprocess.run([python, "-c", "import mediapipe"], capture_output=True, text=True)
        if "cannot open shared object file" in imported.stderr:
            pytest.skip(f"MediaPipe needs more of the system: {imported.stderr.strip().splitlines()[-1]}")
        yield python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_image_classifier_gives_our_labels_and_scores(mediapipe_python: Path, shop: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shop / "runs" / "latest" / "bundle")
    with np.load(bundle.path / "golden.npz") as golden:
        pixels = golden["pixels"][::3]  # every product, in order
    np.save(tmp_path / "pixels.npy", pixels)
    for precision in bundle.manifest.models:
        shutil.copy(bundle.model_path(precision), tmp_path)
    run = subprocess.run([mediapipe_python, READER, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = json.loads(run.stdout)
    for precision, model in bundle.manifest.models.items():
        ours = Classifier.from_bundle(bundle, precision=precision).probabilities(pixels)
        assert len(set(ours.argmax(axis=1))) == len(bundle.labels), "photos of one product would prove little"
        scores = np.array([[photo[label.name] for label in bundle.labels] for photo in theirs[model.file]])
        np.testing.assert_array_equal(scores.argmax(axis=1), ours.argmax(axis=1))
        np.testing.assert_allclose(scores, ours, rtol=0, atol=TOLERANCES[precision])
