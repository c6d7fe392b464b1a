"""How long does a head take, from feature map to logits, in the runtime of the device?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.runtime import load_runtime
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
    compute = tf.function(lambda maps: head(maps, training=False), autograph=False)
    concrete = compute.get_concrete_function(tf.TensorSpec(maps.shape, tf.float32))
    with muted_native_stderr():
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], head).convert()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "head.tflite"
        file.write_bytes(content)
        runtime = load_runtime(file, threads=1)
        return 1000 * median(_seconds(lambda: runtime.invoke(maps)) for _ in range(CALLS))


def _seconds(call: Any) -> float:
    started_s = time.monotonic()
    call()
    return time.monotonic() - started_s
