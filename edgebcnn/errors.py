"""What can go wrong, and the exit code that says so.

    EdgebcnnError                1   any failure that we foresaw
    ├── ConfigError              2   a configuration file, or a value in it, that cannot be used
    ├── DataError                3   photos, labels or list files that cannot be used
    │   ├── UnreadablePhotoError     one photo that is broken or truncated
    │   └── SlotsError               a field of a slots file that cannot be
    ├── RunError                 4   a run folder that is missing, unfinished or of another version
    ├── BundleError              5   a bundle that is missing, changed or of another version
    ├── QuantizationError        6   an export that would not be what it says (a float op)
    ├── CameraError              7   a source that cannot be opened or read
    ├── DeviceError              8   a runtime, delegate, device profile or face detector that cannot do the job
    ├── StorageError             9   a disk that is full or a path that cannot be written
    ├── MissingExtraError       10   a feature whose packages are not installed
    ├── TrainingError           11   training that cannot go on (weights that do not fit, too little memory)
    │   └── DivergedError            a loss or a weight that is not a number any more
    ├── FindingsError           12   photos that a strict inspection finds seriously wrong
    ├── GateError               13   an export that lost too much accuracy to be shipped
    ├── SinkError               14   a broker, webhook, port, token or window that cannot show or take events
    ├── AlarmError              15   a model that no longer answers as it should while it runs
    ├── HangError               16   a stage of the loop that hangs, which ends the process; starting again helps
    └── Interrupted            130   Ctrl-C or SIGTERM ended the command; what was reached is kept

Exit code 2 is also click's, for a wrong command line. Every message is one sentence that says what is wrong, where, and
what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LONGEST_REASON = 200  # of another package's message, within one of ours
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

TRAIN_PACKAGES = frozenset(
    {"flatbuffers", "h5py", "jinja2", "matplotlib", "scipy", "sklearn", "tensorboard", "tensorflow"}
    | {"tensorflow_model_optimization", "tf_keras"}
)
"""What `pip install 'edgebcnn[train]'` adds to a device."""


class EdgebcnnError(Exception):
    """A failure that we foresaw; the command line prints its message alone and exits with `exit_code`.

    Control characters in the message, which may come from a file or camera, are made visible: a terminal must not obey
    them.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_CONTROLS.sub(lambda found: ascii(found[0])[1:-1], message))


class ConfigError(EdgebcnnError):
    """A configuration file, or a value in it, that cannot be used; the command line is as wrong as with a bad flag."""

    exit_code = 2


class DataError(EdgebcnnError):
    """Photos, labels or list files that cannot be used."""

    exit_code = 3


class UnreadablePhotoError(DataError):
    """One photo that is broken or truncated."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class SlotsError(DataError):
    """A field of a slots file that cannot be; `place` has its keys and list indices, `reason` what is wrong there."""

    def __init__(self, sentence: str, *, place: Sequence[str | int], reason: str) -> None:
        super().__init__(sentence)
        self.place = tuple(place)
        self.reason = reason


class RunError(EdgebcnnError):
    """A run folder that is missing, unfinished or of another version."""

    exit_code = 4


class BundleError(EdgebcnnError):
    """A bundle that is missing, changed or of another version."""

    exit_code = 5


class QuantizationError(EdgebcnnError):
    """An export that would not be what it says."""

    exit_code = 6


class CameraError(EdgebcnnError):
    """A source that cannot be opened or read."""

    exit_code = 7


class DeviceError(EdgebcnnError):
    """A runtime, delegate, device profile or face detector that cannot do the job."""

    exit_code = 8


class StorageError(EdgebcnnError):
    """A disk that is full, or a path that cannot be written."""

    exit_code = 9


class MissingExtraError(EdgebcnnError):
    """A feature whose packages are not installed."""

    exit_code = 10

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'edgebcnn[{extra}]'")

    @classmethod
    def behind(cls, error: ModuleNotFoundError, feature: str) -> MissingExtraError | None:
        """The train extra's absence that made an import fail; None where the import failed for another reason."""
        return cls(feature, "train") if (error.name or "").partition(".")[0] in TRAIN_PACKAGES else None


class TrainingError(EdgebcnnError):
    """Training that cannot go on."""

    exit_code = 11


class DivergedError(TrainingError):
    """A loss or a weight that is not a number any more: the same choices would lead there again."""


class FindingsError(EdgebcnnError):
    """Photos that a strict inspection finds seriously wrong."""

    exit_code = 12


class GateError(EdgebcnnError):
    """An export that lost too much accuracy to be shipped; `report` holds all its figures."""

    exit_code = 13

    def __init__(self, message: str, *, report: Path) -> None:
        super().__init__(message)
        self.report = report


class SinkError(EdgebcnnError):
    """A broker, webhook, port, token or window that cannot take events or show the run."""

    exit_code = 14


class AlarmError(EdgebcnnError):
    """A model that no longer answers as it should while it runs, where that ends the run."""

    exit_code = 15


class HangError(EdgebcnnError):
    """A stage of the loop that took so long that the process ended itself; a service manager restarts it."""

    exit_code = 16


class Interrupted(EdgebcnnError):
    """Somebody asked the command to end; the message says what was reached and how to go on."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none; what fits into a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:LONGEST_REASON]
