"""How does a kind of device want to be used? `devices/*.toml` says it, one file per device."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgebcnn import catalog
from edgebcnn.bundle import Precision
from edgebcnn.errors import DeviceError


class DeviceProfile(BaseModel):
    """What runs a model on a kind of device.

    Attributes:
        name: The name of its file.
        description: Which devices it fits, in one sentence.
        runtime: The TFLite runtime to use.
        delegate: What of that runtime executes the ops.
        threads: Threads of the delegate.
        precision: The model file of a bundle that suits it best.
        measured: Latency with model, machine and command, once somebody has measured it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    runtime: Literal["litert", "tflite_runtime"]
    delegate: Literal["xnnpack"]
    threads: int = Field(ge=1)
    precision: Precision
    measured: str = "nobody has measured this yet"


def load_profile(name_or_path: str) -> DeviceProfile:
    """Loads a profile that comes with edgebcnn by its name, or a user's own by the path of its `.toml` file.

    Raises:
        DeviceError: no such profile, or a key or value that does not fit.
    """
    return catalog.load(
        name_or_path, DeviceProfile, package="edgebcnn._devices", kind="device profile", error=DeviceError
    )
