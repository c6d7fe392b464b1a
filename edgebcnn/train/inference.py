"""Runs inference on a network outside training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.keras import tf

_VALUES_PER_CORE = 2**18
"""Input values per core and batch on a CPU; an image of 320 px has about as many."""

_FEWEST_ROWS = 2
"""Smallest batch, whatever the size: a single row leaves a part of two cores idle."""


def inference(network: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A network, or a function of one tensor and `training`, as a compiled function of arrays `(n, ...)`.

    On a CPU it is called with few rows at a time: what its first layers give for many is larger than any cache, and
    memory takes longer than the arithmetic.
    """
    compute = tf.function(
        lambda inputs: network(as_float(inputs), training=False), autograph=False, reduce_retracing=True
    )

    def of_rows(inputs: NDArray[Any]) -> NDArray[Any]:
        parts = [inputs[rows] for rows in _at_once(inputs)]
        return np.concatenate([compute(tf.constant(part)).numpy() for part in parts])

    return of_rows


def _at_once(inputs: NDArray[Any]) -> list[slice]:
    rows = len(inputs)
    if not tf.config.list_physical_devices("GPU"):
        at_once = _VALUES_PER_CORE * (os.cpu_count() or 1)
        rows = max(_FEWEST_ROWS, at_once // math.prod(inputs.shape[1:]))
    return [slice(begin, begin + rows) for begin in range(0, len(inputs), rows)]


def as_float(inputs: Any) -> Any:
    """Float32 input of a network: images scaled from 0-255 to [-1, 1], cached features as they are."""
    x = tf.cast(inputs, tf.float32)
    return x / 127.5 - 1.0 if inputs.dtype == tf.uint8 else x
