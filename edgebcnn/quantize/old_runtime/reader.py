"""Runs inference with tflite-runtime, in an environment that has nothing but it and NumPy.

`python old_runtime_reader.py DIR` reads `model.tflite` and `images.npy` there, writes `outputs.npy`, and prints a dot
for each image and in the end the runtime's version as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Runs inference on every image."""
    import tflite_runtime
    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / "model.tflite"))
    interpreter.allocate_tensors()
    (image,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for each in np.load(folder / "images.npy"):
        interpreter.set_tensor(image["index"], each[np.newaxis])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(probabilities["index"]))
        print(".", flush=True)
    np.save(folder / "outputs.npy", np.concatenate(outputs))
    print(json.dumps(tflite_runtime.__version__))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
