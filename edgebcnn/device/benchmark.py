"""Measures speed and accuracy of a bundle per precision, delegate and number of threads.

The candidates take turns, forth in one round and back in the next, so that a noisy minute hits all alike. Each turn is
a process of its own, where a delegate may crash. It replays the golden photos, which warms it up and shows whether it
is right, and then times photos one by one. Who fails in any round is dropped, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from edgebcnn.bundle import REPORT_NAME, Bundle, Precision
from edgebcnn.device import auto
from edgebcnn.device.auto import Considered, Wanted
from edgebcnn.device.classifier import PREFERRED
from edgebcnn.device.delegate import try_delegate
from edgebcnn.device.machine import Machine, inspect_machine, take_inventory
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.runtime import check_threads, default_threads
from edgebcnn.device.selftest import Golden, read_golden
from edgebcnn.device.trial import Trial
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.progress import Reporter, Silent
from edgebcnn.report.agreement import Proportion
from edgebcnn.untrusted.files import read_json

SCHEMA_VERSION = 1
ROUNDS = 5
CALLS = 40  # timed photos a round; five rounds are as many as `check` times

_HEADINGS = ("precision", "runtime", "delegate", "threads", "median", "of rounds", "p95", "photos/s", "accuracy")

_SILENT = Silent()


@dataclass(frozen=True)
class Measured:
    """A candidate that was right in every round.

    Attributes:
        profile: The candidate.
        trials: What it did, round by round.
        golden: Share of the golden photos, without the hard ones, that it gets right.
        at_export: Share of the held-out photos that its model file got right at export, where the bundle says it.
    """

    profile: DeviceProfile
    trials: tuple[Trial, ...]
    golden: Proportion
    at_export: Proportion | None

    @property
    def accuracy(self) -> Proportion:
        """The one of more photos: that of the export, where there is one."""
        return self.at_export or self.golden

    def latency_ms(self, q: float) -> float:
        """Smallest latency that a share `q` (0-1) of all timed photos did not exceed."""
        return float(np.quantile(self._latencies_ms, q, method="inverted_cdf"))

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Lowest and highest median of a round."""
        medians = [trial.latency_ms(0.5) for trial in self.trials]
        return min(medians), max(medians)

    @property
    def photos_per_s(self) -> float:
        """One photo after the other."""
        return 1000 / float(np.mean(self._latencies_ms))

    @property
    def _latencies_ms(self) -> list[float]:
        return list(chain.from_iterable(trial.latencies_ms for trial in self.trials))

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table under `_HEADINGS`."""
        receipt, share, (low, high) = self.trials[0].receipt, self.accuracy, self.spread_ms
        return (
            receipt.precision,
            f"{receipt.runtime} {receipt.version}",
            receipt.adapter or receipt.delegate or "none",
            str(receipt.threads or ""),
            f"{self.latency_ms(0.5):.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{self.latency_ms(0.95):.2f}",
            f"{self.photos_per_s:.1f}",
            f"{share}{'' if self.at_export else ' golden'}",
        )

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        low, high = self.spread_ms
        return {
            "profile": self.profile.name,
            "receipt": self.trials[0].receipt.as_json(),
            "latency_ms": {
                "n": len(self._latencies_ms),
                "p50": round(self.latency_ms(0.5), 3),
                "p95": round(self.latency_ms(0.95), 3),
                "lowest_round": round(low, 3),
                "highest_round": round(high, 3),
            },
            "photos_per_s": round(self.photos_per_s, 2),
            "load_ms": round(float(np.median([trial.load_ms for trial in self.trials])), 1),
            "memory_mb": round(max(trial.memory_mb for trial in self.trials), 1),
            "accuracy": {
                "golden": self.golden.as_json(),
                "at_export": self.at_export.as_json() if self.at_export else None,
            },
        }


@dataclass(frozen=True)
class BenchmarkReport:
    """What a benchmark found.

    Attributes:
        bundle: The bundle.
        machine: Where that was.
        rounds: Turns of each candidate.
        measured: Those that were right, the fastest first.
        dropped: The others.
    """

    bundle: Bundle
    machine: Machine
    rounds: int
    measured: tuple[Measured, ...]
    dropped: tuple[Considered, ...]

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle": {"name": self.bundle.manifest.name, "digest": self.bundle.digest},
            "machine": asdict(self.machine),
            "rounds": self.rounds,
            "measured": [one.as_json() for one in self.measured],
            "dropped": [one.model_dump(mode="json") for one in self.dropped],
        }

    def __str__(self) -> str:
        """A table, and why others are not in it; in lines that a narrow terminal wraps and nothing cuts."""
        rows = [_HEADINGS, *(one.cells for one in self.measured)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        title = f"{self.bundle.manifest.name} on {self.machine}; {self.rounds} rounds; latency in ms"
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([title, *table, *(f"dropped  {one}" for one in self.dropped)])


def candidates(
    bundle: Bundle,
    *,
    profiles: Sequence[DeviceProfile] = (),
    precisions: Sequence[Precision] = (),
    threads: Sequence[int] = (),
) -> list[DeviceProfile]:
    """What to measure: all combinations of what is given.

    Args:
        bundle: The bundle.
        profiles: Runtimes and delegates; by default all that are found here.
        precisions: Model files; by default those of the bundle.
        threads: CPU threads, which an accelerator has no say in; by default 1, 2 and the most that is sensible.

    Raises:
        DeviceError: there are fewer cores than threads.
        BundleError: the bundle lacks a precision.
    """
    for count in threads:
        check_threads(count, "--threads")
    for precision in precisions:
        bundle.model_path(precision)
    found: list[DeviceProfile] = []
    for precision in precisions or [one for one in PREFERRED if one in bundle.manifest.models]:
        for count in threads or sorted({1, min(2, default_threads()), default_threads()}):
            wanted = Wanted(precision, count)
            here = _wished(profiles, wanted) if profiles else auto.candidates(bundle, wanted, take_inventory())
            found += [one for one in here if one not in found]  # an accelerator is the same with any threads
    return found


def benchmark(
    bundle: Bundle,
    candidates: Sequence[DeviceProfile],
    *,
    rounds: int = ROUNDS,
    calls: int = CALLS,
    reporter: Reporter = _SILENT,
) -> BenchmarkReport:
    """Measures candidates in turns.

    Args:
        bundle: The bundle.
        candidates: Runtime, delegate, precision and threads of each.
        rounds: Turns of each candidate.
        calls: Photos that are timed in each turn.
        reporter: Told what is being done.

    Raises:
        DeviceError: none is right.
        BundleError: the bundle has no golden photos, or its report cannot be read.
    """
    at_export = _accuracies_at_export(bundle)
    golden = {precision: read_golden(bundle, precision) for precision in {one.precision for one in candidates}}
    trials: list[list[Trial]] = [[] for _ in candidates]
    problems: dict[int, str] = {}
    with reporter.progress(f"Measuring {len(candidates)} candidates", rounds * len(candidates)) as advance:
        for place in _turns(len(candidates), rounds):
            if place not in problems:
                tried = _tried(bundle, candidates[place], golden[candidates[place].precision], calls)
                if isinstance(tried, Trial):
                    trials[place].append(tried)
                else:
                    problems[place] = tried
            advance(1)
    dropped = [
        Considered(profile=candidates[place], latency_p50_ms=None, dropped=why) for place, why in problems.items()
    ]
    if len(dropped) == len(candidates):
        raise auto.nothing_right(bundle, dropped)
    measured = [
        _measured(profile, trials[place], golden[profile.precision], at_export.get(profile.precision))
        for place, profile in enumerate(candidates)
        if place not in problems
    ]
    measured.sort(key=lambda one: one.latency_ms(0.5))
    return BenchmarkReport(bundle, inspect_machine(), rounds, tuple(measured), tuple(dropped))


def _wished(profiles: Sequence[DeviceProfile], wanted: Wanted) -> Iterator[DeviceProfile]:
    for profile in profiles:
        threads = profile.threads if profile.is_accelerator else wanted.threads
        yield profile.model_copy(update={"precision": wanted.precision, "threads": threads})


def _turns(candidates: int, rounds: int) -> Iterator[int]:
    """`0 1 2 2 1 0 0 1 2 …`: a machine that grows slower all the time slows all alike."""
    for number in range(rounds):
        yield from range(candidates) if number % 2 == 0 else reversed(range(candidates))


def _tried(bundle: Bundle, profile: DeviceProfile, golden: Golden, calls: int) -> Trial | str:
    """What it did, or why it is out."""
    try:
        judged = try_delegate(bundle, profile, golden, precision=profile.precision, calls=calls)
    except DeviceError as error:
        return str(error)
    return judged.problem or judged.trial


def _measured(profile: DeviceProfile, trials: list[Trial], golden: Golden, at_export: Proportion | None) -> Measured:
    return Measured(profile, tuple(trials), golden.accuracy(trials[0].outputs), at_export)


def _accuracies_at_export(bundle: Bundle) -> dict[Precision, Proportion]:
    """Accuracy of each model file on the held-out photos; of none where the bundle has no report."""
    path = bundle.path / REPORT_NAME
    if not path.exists():
        return {}
    try:
        files = read_json(path)["models"]
        edges = {
            precision: next(model["accuracy"] for model in file["models"] if model["name"] == "edge")
            for precision, file in files.items()
        }
        return {precision: Proportion(edge["successes"], edge["n"]) for precision, edge in edges.items()}
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise BundleError(f"{path} has no accuracy of the model files: export the bundle again") from error
