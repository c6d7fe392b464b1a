"""Names photos with MediaPipe Tasks and model files alone; run by `test_mediapipe.py` in an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def named(model: Path, photo: mp.Image) -> dict[str, float]:
    """The score of each label."""
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=str(model)))
    with vision.ImageClassifier.create_from_options(options) as classifier:
        (head,) = classifier.classify(photo).classifications
    return {category.category_name: category.score for category in head.categories}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    photos = [mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels) for pixels in np.load(folder / "pixels.npy")]
    print(json.dumps({model.name: [named(model, photo) for photo in photos] for model in folder.glob("*.tflite")}))
