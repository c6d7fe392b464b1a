"""Builds the compact `small` model in Keras 3 and reads weights that tf_keras saved; run by `test_bcnn.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np


def compact_model() -> keras.Model:
    """The architecture of `COMPACT` in `test_bcnn.py`, in Keras 3's own layers."""
    x = image = keras.Input((None, None, 3), name="image")
    for block, (filters, stride) in enumerate(((24, 2), (48, 2), (64, 1), (96, 2), (128, 1)), start=1):
        name = f"small_{block}"
        x = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_BN")(x)
        x = keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
    u = keras.layers.Conv2D(24, 1, use_bias=False, name="project_u")(x)
    v = keras.layers.Conv2D(24, 1, use_bias=False, name="project_v")(x)
    x = keras.layers.GlobalAveragePooling2D(name="hadamard_product")(keras.layers.Multiply()([u, v]))
    x = keras.layers.Activation("tanh", name="tail_tanh")(keras.layers.BatchNormalization(name="tail_BN")(x))
    return keras.Model(image, keras.layers.Dense(5, name="logits")(x))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model = compact_model()
    model.load_weights(str(folder / "weights.h5"), by_name=False)
    logits = model.predict(np.load(folder / "pictures.npy"), verbose=0)
    # Two versions of the same kernels, summing in another order.
    np.testing.assert_allclose(logits, np.load(folder / "logits.npy"), rtol=1e-4, atol=1e-5)
