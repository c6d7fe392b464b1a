"""Bounds live agreement with a confidence sequence, which may be checked at every frame.

An interval for a fixed number of photos is wrong 5 times in 100 at each look, so with enough looks it fails. A
confidence sequence is wrong with at most that probability over the whole stream, however often you look and whenever
you stop. Its price is an interval about twice as wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import CONFIDENCE

TILTS = np.geomspace(0.02, 6, 24)
"""Losses of agreement that are tested, as differences of log odds: from one that takes 10⁵ looks to total failure."""

_HALVINGS = 53  # as many as a double has bits


@dataclass(frozen=True)
class SequentialShare:
    """Successes out of n so far, with the interval of `confidence_sequence`."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """Successes / n."""
        return self.successes / self.n

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return confidence_sequence(self.successes, self.n)[0]

    @property
    def high(self) -> float:
        """Upper end."""
        return confidence_sequence(self.successes, self.n)[1]


def confidence_sequence(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share so far that holds at all times at once (Howard et al. 2021, doi:10.1214/20-AOS1991).

    Let look i hold with probability p_i, given all that was before, and λ < 0. With S looks that held,
    exp(λS - Σ log(1 - p_i + p_i e^λ)) is a martingale that starts at 1. As the logarithm is concave,
    exp(λS - n log(1 - p + p e^λ)), p the mean of all p_i, is never above it; nor is its mean over `TILTS` above theirs,
    which by Ville's inequality stays below 2/α for ever with probability 1 - α/2. The upper end is the largest p for
    which it does; the lower end is that of the opposite.

    The share may wander; the interval is for its mean so far. But p_i is what the past leaves open: of frames that show
    one scene, only one may be a look.

    Args:
        successes: Looks on which it held, 0-n.
        n: Looks, 0 or more. These two counts are all that a monitor has to keep.
        confidence: 1 - α: that the interval never leaves out the truth, 0-1.

    Returns:
        Lower and upper end; 0 and 1 before the first look.

    Raises:
        ValueError: the counts are no share, or confidence lies outside 0-1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} looks: successes must lie between 0 and n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    limit = math.log(2 / (1 - confidence))
    return 1 - _upper(n - successes, n, limit), _upper(successes, n, limit)


class AgreementAlarm:
    """Tells when agreement has fallen below a threshold, now or at any time before.

    A bet on λ < 0 multiplies its stake by e^{λx}/(1 - m + m e^λ) at each look x, 0 or 1: by 1 or less on average while
    agreement stays at or above the threshold m. At every look t, the share 1/(t(t + 1)) of a capital of 1 enters such
    bets, equally over `TILTS`, so that a fall after a long good time is found as well. The capital then reaches 1/α
    with probability α at most, ever (Ville 1939; on bets that start anew: Shin, Ramdas, Rinaldo, arXiv 2203.03532).

    Looks must be able to differ: of frames that show one scene, only one may be a look.
    """

    def __init__(self, threshold: float, *, false_alarms: float = 1 - CONFIDENCE) -> None:
        """Nothing was seen yet.

        Args:
            threshold: m, the agreement below which is an alarm, 0-1.
            false_alarms: α, how probable an alarm may be without a reason, over all time.

        Raises:
            ValueError: one of them lies outside 0-1.
        """
        if not (0 < threshold < 1 and 0 < false_alarms < 1):
            raise ValueError(f"threshold {threshold} and false_alarms {false_alarms} must lie between 0 and 1")
        self.threshold = threshold
        self.looks = 0
        self.evidence = 1.0
        self._limit = 1 / false_alarms
        self._bets = np.zeros(len(TILTS))

    @property
    def raised(self) -> bool:
        """Whether the capital has reached 1/α; it then stays as it is."""
        return self.evidence >= self._limit

    def look(self, agrees: bool) -> bool:
        """Takes one look, and tells whether the alarm is raised.

        Args:
            agrees: Whether edge and full model have the same top-1.
        """
        if not self.raised:
            self.looks += 1
            self._bets = stakes_after(self._bets, np.array(agrees), look=self.looks, threshold=self.threshold)
            self.evidence = float(self._bets.sum()) + 1 / (self.looks + 1)
        return self.raised


def stakes_after(
    bets: NDArray[np.float64], agrees: NDArray[np.bool_], *, look: int, threshold: float
) -> NDArray[np.float64]:
    """What the bets of an alarm are worth after one more look; of many alarms at once, for simulations.

    Args:
        bets: `(..., tilts)` before it.
        agrees: `(...)` bool.
        look: Its number, from 1 on.
        threshold: Of the alarms, 0-1.

    Returns:
        `(..., tilts)`; their sum and 1/(look + 1), which is not bet yet, are an alarm's evidence.
    """
    shrink = np.exp(-TILTS)
    entered = bets + 1 / (look * (look + 1) * len(TILTS))
    return np.asarray(entered * np.where(agrees[..., None], shrink, 1) / (1 - threshold + threshold * shrink))


def log_capital(successes: int, n: int, mean: float) -> float:
    """Logarithm of what a capital of 1 has become by bets that the mean so far is below this one, 0-1."""
    logs = -TILTS * successes - n * np.log1p(mean * np.expm1(-TILTS))
    return float(logs.max() + math.log(np.exp(logs - logs.max()).mean()))


def _upper(successes: int, n: int, limit: float) -> float:
    """The largest mean whose capital is below the limit. Capital grows with the mean: halve until it is found."""
    low, high = successes / max(n, 1), 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if log_capital(successes, n, middle) < limit else (low, middle)
    return high
