"""Measures the latency of a head, from feature map to logits, in the device's runtime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.runtime import Runtime, load_runtime
from edgebcnn.model.keras import tf
from edgebcnn.native import muted_native_stderr

CALLS = 100


def head_latency_ms(head: Any, maps: NDArray[np.float32]) -> float:
    """Median time of one call in float32, on one thread of this machine.

    Args:
        head: Feature map to logits.
        maps: `(1, h, w, M)` a feature map.

    Raises:
        DeviceError: no TFLite runtime is installed.
    """
    with muted_native_stderr():
        content = converter_of(head, maps.shape).convert()
    runtime = on_one_thread(content)
    return 1000 * median(seconds_of_call(runtime, maps) for _ in range(CALLS))


def converter_of(network: Any, shape: Sequence[int]) -> Any:
    """A TFLite converter with one input of that shape, float32 by default."""
    compute = tf.function(lambda inputs: network(inputs, training=False), autograph=False)
    concrete = compute.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)


def on_one_thread(content: bytes) -> Runtime:
    """The content of a `.tflite` file, loaded.

    Raises:
        DeviceError: no TFLite runtime is installed.
    """
    with tempfile.TemporaryDirectory() as folder, muted_native_stderr():
        file = Path(folder) / "model.tflite"
        file.write_bytes(content)
        return load_runtime(file, threads=1)


def seconds_of_call(runtime: Runtime, batch: NDArray[Any]) -> float:
    """Time of one call, with its input copied in and its output copied out."""
    started_s = time.monotonic()
    runtime.invoke(batch)
    return time.monotonic() - started_s
