"""Classifies frames by MediaPipe Tasks in video mode; run by `loop.py` in an environment of its own.

Reads seconds from standard input, line by line, and writes the frames a second that it managed in that time.
"""

from __future__ import annotations

import sys
import time
from itertools import count

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

FRAME_MS = 1  # from frame to frame, by the stamps that video mode asks for

if __name__ == "__main__":
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=sys.argv[1]), running_mode=vision.RunningMode.VIDEO, max_results=3
    )
    frames = [np.ascontiguousarray(frame) for frame in np.load(sys.argv[2])]
    numbers = count()
    with vision.ImageClassifier.create_from_options(options) as classifier:

        def classify() -> None:
            """Takes the next frame."""
            number = next(numbers)
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=frames[number % len(frames)])
            classifier.classify_for_video(image, number * FRAME_MS)

        for line in sys.stdin:
            classify()
            started_s, done = time.monotonic(), 0
            while time.monotonic() - started_s < float(line):
                classify()
                done += 1
            print(done / (time.monotonic() - started_s), flush=True)
