"""The probability that a frame is kept: the uniform rate, times a boost for uncertain frames and rare products.

A frame's boost b is 1 + 4·(1 - margin) + 4·shortfall, from 1 to 9. A number u is drawn uniformly from 0-1, the frame's
rank is u/b, and it belongs to the sample while that is below t, the smaller of its run's rate and the threshold of the
sample:

    π = P(u/b < t) = min(1, b·t)

The threshold falls when the size limit is reached, and frames that are no longer below it are removed (order sampling:
Rosén 1997, J. Stat. Plan. Inf. 62:159-191; priority sampling: Duffield, Lund, Thorup 2007, J. ACM 54). It would be
the same had a frame that is still there drawn 0, so that weights 1/π stay unbiased (substitutable thresholds: Ting
2017, arXiv:1708.04970). A boost knows only what was there before its frame's draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebcnn.loop.reading import Candidate

UNCERTAIN = 4.0  # added where the two best products are equally probable
RARE = 4.0  # added where a product has not been seen


def kept_with(boost: float, rate: float, threshold: float) -> float:
    """Returns π, the probability that a frame belongs to a sample.

    Args:
        boost: Boost of the frame.
        rate: Rate of its run.
        threshold: Current threshold of the sample.
    """
    return min(1.0, boost * min(rate, threshold))


class Boosts:
    """Computes the boost of each frame from its reading and the readings before it.

    Args:
        frames: `(classes,)` how many frames of each product there were before this run, or an estimate.
    """

    def __init__(self, frames: NDArray[np.float64]) -> None:
        self._frames = frames.copy()
        self._all = float(frames.sum())

    def next(self, best: Sequence[Candidate]) -> float:
        """Returns the boost of the next frame.

        Args:
            best: Its most probable products, best first.
        """
        class_id = best[0].class_id
        margin = best[0].score - (best[1].score if len(best) > 1 else 0.0)
        # How far the product falls short of an equal share of the frames so far.
        equal = self._all / len(self._frames)
        shortfall = max(0.0, 1 - self._frames[class_id] / equal) if equal else 1.0
        self._frames[class_id] += 1
        self._all += 1
        return 1 + UNCERTAIN * (1 - margin) + RARE * float(shortfall)
