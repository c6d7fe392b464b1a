"""Parses the notation for the two streams of a B-CNN, their weights and their frozen layers.

| spelling                       | stream                                                                         |
|--------------------------------|--------------------------------------------------------------------------------|
| `vgg16`                        | one of ours, to its own last layer                                             |
| `mobilenet_v2_0.5`             | the same, of half the width                                                    |
| `vgg16:block4_conv3`           | one of ours, to another layer                                                  |
| `FILE.keras:LAYER`             | a Keras model of the user's own (or `.h5`), which takes RGB in [-1, 1]         |
| `FILE.keras:LAYER:PIXELS`      | the same, which takes `torch`, `caffe`, `unit` (0-1) or `raw` (0-255) pixels   |

Two streams are `A,B`; one spelling alone stands for both. So are the weights and the frozen layers of each.
"""

from __future__ import annotations

import re
from pathlib import Path

_MODEL_FILE = re.compile(r"(?P<file>.+?\.(?:keras|h5|hdf5))(?::(?P<layer>[^:]+)(?::(?P<pixels>[^:]+))?)?")


def both(choice: str) -> tuple[str, str]:
    """What stream A and stream B have: `x` is (x, x), `x,y` is (x, y).

    Raises:
        ValueError: more than two, or an empty one.
    """
    parts = choice.split(",")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"{choice!r} is neither one for both streams nor two with a comma between, as in vgg16,vgg16")
    return parts[0], parts[-1]


def check_shared(streams: str, shared_weights: bool | None) -> bool:
    """Whether both streams are one network: as chosen; by default where they are equal.

    Raises:
        ValueError: streams that differ are to share weights, or are not written as streams are.
    """
    a, b = both(streams)
    if shared_weights and a != b:
        raise ValueError(f"{a} and {b} differ and cannot have --shared-weights: leave it out, or give one for both")
    return a == b if shared_weights is None else shared_weights


def model_file(stream: str) -> tuple[str, str | None, str | None] | None:
    """File, layer and pixel format of a user's own model; None for a stream of ours."""
    found = _MODEL_FILE.fullmatch(stream)
    return (found["file"], found["layer"], found["pixels"]) if found else None


def with_absolute_files(streams: str) -> str:
    """The same streams, found from any working folder.

    Raises:
        ValueError: they are not written as streams are.
    """
    return ",".join(_absolute(stream) for stream in dict.fromkeys(both(streams)))


def _absolute(stream: str) -> str:
    own = model_file(stream)
    return stream if own is None else ":".join([str(Path(own[0]).absolute()), *(part for part in own[1:] if part)])
