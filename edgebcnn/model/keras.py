"""Which Keras we use: tf_keras, imported here and nowhere else.

Quantization-aware training of tensorflow-model-optimization accepts tf_keras models only, so the whole toolkit builds
on it; weights are saved in the HDF5 layout that Keras 3 reads as well, so that nobody is locked in.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgebcnn.native import muted_native_stderr

# TensorFlow reports a missing CUDA driver as an error on every start; its real failures are raised as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_MALLOC_OPTIONS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: free bytes at the end of the heap that go back to the system
    -2: 64 * 2**20,  # M_TOP_PAD: bytes that the heap grows by at least
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD: bytes of a block that has a map of its own; this is the most that glibc takes
    -8: 1,  # M_ARENA_MAX
}


def _keep_freed_memory() -> None:
    """Has glibc keep what TensorFlow frees, which needs as much again at its next step.

    Every large activation would be mapped anew, as pages that the system clears first. One arena for all threads holds
    less than one for each, where all keep what was freed (glibc's manual page mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


_keep_freed_memory()

with muted_native_stderr():
    import tensorflow as tf
    import tf_keras as keras

logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["deterministic", "int16_quantizer", "keras", "tf", "tflite_quantizer"]


def tflite_quantizer() -> Any:
    """The step of TensorFlow's TFLite converter that quantizes a file whose tensors have ranges.

    Public only as the last step of a converter that chooses the ranges itself, but documented with that converter:
    https://www.tensorflow.org/lite/performance/quantization_debugger.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    return mlir_quantize


def int16_quantizer() -> Any:
    """The class of TensorFlow's TFLite converter that gives a file int16 activations, from photos that it runs.

    Public only as the last step of a converter that starts from a Keras model, where biases cannot be corrected.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    return Calibrator


@contextmanager
def deterministic() -> Iterator[None]:
    """Has TensorFlow add up in one order, so that the same steps on as many cores give the same bytes.

    Public only as a switch that cannot be turned back, after which everything random without a seed is an error.
    """
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    try:
        yield
    finally:
        config.disable_op_determinism()
