"""Reads device profiles: `devices/*.toml` says how a kind of device is used, one file per device."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgebcnn import catalog
from edgebcnn.bundle import Precision
from edgebcnn.camera_view import Rotation, View, size_from
from edgebcnn.errors import DeviceError

PACKAGE = "edgebcnn._devices"
DEFAULT_PROFILE = "cpu"

RuntimeName = Literal["any", "litert", "tflite_runtime"]
Delegate = Literal["none", "xnnpack", "gpu", "external"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GpuSettings(_Strict):
    """How the GPU is to be used.

    Attributes:
        enforce_f32: Compute in float32 where the GPU would take float16.
        software_adapter: Take a GPU that the CPU plays, for tests; it is refused otherwise.
    """

    enforce_f32: bool = False
    software_adapter: bool = False


class ExternalDelegate(_Strict):
    """A vendor's delegate.

    Attributes:
        library: Name of the shared library, as the system's loader finds it, or its path.
        options: What the library's documentation lists.
    """

    library: str = Field(min_length=1)
    options: dict[str, str] = {}


class CameraDefaults(_Strict):
    """What `edgebcnn run` reads, and how, where it is not told.

    Attributes:
        source: Index, device, file or address.
        size: Width and height in which a camera shall film, such as `1280x720`.
        rate: Frames a second that a camera shall give.
        rotate: Degrees clockwise to turn each frame of a camera or stream.
    """

    source: str = Field(default="0", min_length=1)
    size: str | None = None
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rotate: Rotation = 0

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str | None) -> str | None:
        if size is not None:
            size_from(size)
        return size

    @field_validator("rotate", mode="before")
    @classmethod
    def _is_an_integer(cls, rotate: object) -> object:
        if type(rotate) is not int:  # a literal compares, and False is 0
            raise ValueError("degrees are 0, 90, 180 or 270")
        return rotate

    @model_validator(mode="after")
    def _only_a_camera_obeys(self) -> CameraDefaults:
        if "://" in self.source and self.view.asks_the_camera:
            raise ValueError("a stream has the size and rate that it has: leave them out")
        return self

    @property
    def view(self) -> View:
        """Size, rate and rotation."""
        return View(size_from(self.size) if self.size else None, self.rate, self.rotate)

    def __str__(self) -> str:
        """`camera 0 · 1280x720 · 15 frames/s · turned by 90°`, with what there is of it."""
        said = [f"camera {self.source}"]
        said += [self.size] if self.size else []
        said += [f"{self.rate:g} frames/s"] if self.rate else []
        said += [f"turned by {self.rotate}°"] if self.rotate else []
        return " · ".join(said)


class DeviceLimits(_Strict):
    """What `edgebcnn check` holds the device to.

    Attributes:
        temperature_c: Above it the board slows itself down, and no latency is worth noting.
        memory_mb: Peak of the process that classifies.
    """

    temperature_c: float | None = Field(default=None, gt=0)
    memory_mb: float | None = Field(default=None, gt=0)


class Measurement(_Strict):
    """What somebody measured with this profile.

    Attributes:
        machine: Board or computer, with its operating system.
        model: What was classified, with its input size.
        precision: The model file.
        runtime: Runtime and version.
        latency_p50_ms: Median time of one photo, read-back included.
        command: What was typed.
    """

    machine: str
    model: str
    precision: Precision
    runtime: str
    latency_p50_ms: float = Field(gt=0)
    command: str

    def __str__(self) -> str:
        """`12.3 ms p50 · grocery 256 px · int8 · LiteRT 2.3.0 · Raspberry Pi 5`."""
        parts = (f"{self.latency_p50_ms:g} ms p50", self.model, self.precision, self.runtime, self.machine)
        return " · ".join(parts)


class DeviceProfile(_Strict):
    """What runs a model on a kind of device.

    Attributes:
        name: The name of its file.
        description: Which devices it fits, in one sentence.
        runtime: The TFLite runtime to use; `any` takes LiteRT where it is installed, tflite-runtime otherwise.
        delegate: What executes the ops; `none` leaves them all to the runtime's own kernels.
        threads: CPU threads; the cores of the machine, at most four, where it is left out.
        precision: The model file of a bundle that suits it best; where a bundle lacks it, the first that it has of
            int8, fp16 and float32.
        gpu: For `delegate = "gpu"`.
        external: For `delegate = "external"`.
        camera: Defaults of `edgebcnn run`.
        limits: What `edgebcnn check` holds the device to.
        measured: What was measured, and where; empty while nobody has measured anything.
    """

    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    runtime: RuntimeName
    delegate: Delegate
    threads: int | None = Field(default=None, ge=1)
    precision: Precision
    gpu: GpuSettings | None = None
    external: ExternalDelegate | None = None
    camera: CameraDefaults = CameraDefaults()
    limits: DeviceLimits = DeviceLimits()
    measured: tuple[Measurement, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _delegate_has_its_own_table_alone(self) -> DeviceProfile:
        if self.delegate == "external" and self.external is None:
            raise ValueError('delegate = "external" needs a table [external] with the library')
        for table in ("gpu", "external"):
            if getattr(self, table) is not None and self.delegate != table:
                raise ValueError(f'the table [{table}] belongs to delegate = "{table}", not "{self.delegate}"')
        if self.delegate == "gpu" and self.runtime != "litert":
            raise ValueError('delegate = "gpu" needs runtime = "litert"')
        return self

    @property
    def is_accelerator(self) -> bool:
        """Whether something other than the CPU is to compute."""
        return self.delegate in ("gpu", "external")

    @property
    def processor(self) -> str:
        """What is to compute, as the subject of a sentence: `the GPU`, a library, `XNNPACK`, `the CPU`."""
        if self.external:
            return self.external.library
        return {"gpu": "the GPU", "xnnpack": "XNNPACK"}.get(self.delegate, "the CPU")

    @property
    def said_of_measurements(self) -> str:
        """What was measured, or that nobody has."""
        return "; ".join(map(str, self.measured)) or "nobody has measured this yet"


def load_profile(name_or_path: str) -> DeviceProfile:
    """Loads a profile that comes with edgebcnn by its name, or a user's own by the path of its `.toml` file.

    Raises:
        DeviceError: no such profile, or a key or value that does not fit.
    """
    return catalog.load(name_or_path, DeviceProfile, package=PACKAGE, kind="device profile", error=DeviceError)


def profile_names() -> list[str]:
    """Names of the profiles that come with edgebcnn, sorted."""
    return catalog.names(PACKAGE)
