"""edgebcnn: bilinear CNN product classifiers, from a store's photos to the shelf.

The Python API is `edgebcnn.api` and `edgebcnn.errors`; a name of theirs is imported here when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_API = (
    *("Classifier", "Prediction", "RankedProduct", "Reading", "Reporter", "Silent", "Source"),
    *("evaluate", "export", "load", "open_source", "readings", "train"),
)
_ERRORS = (
    *("AlarmError", "BundleError", "CameraError", "ConfigError", "DataError", "DeviceError"),
    *("DivergedError", "EdgebcnnError"),
    *("FindingsError", "GateError", "HangError", "Interrupted", "MissingExtraError", "QuantizationError", "RunError"),
    *("SinkError", "SlotsError", "StorageError", "TrainingError", "UnreadablePhotoError"),
)
_MODULE_OF = {**dict.fromkeys(_API, "edgebcnn.api"), **dict.fromkeys(_ERRORS, "edgebcnn.errors")}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    """A name of the API, imported now; `__init__.pyi` tells type checkers what each is."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `edgebcnn.train` the function, where importing the package of that name would put the package."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _MODULE_OF or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
