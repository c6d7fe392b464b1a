"""Flags that name the bundle and the device, for every command that runs a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebcnn.cli.flags.sections import setting

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle, Precision
    from edgebcnn.device.delegate import Policy
    from edgebcnn.device.profile import DeviceProfile
    from edgebcnn.progress import Reporter

DEFAULT_BUNDLE = Path("runs/latest/bundle")

PRECISIONS = click.Choice(["int8", "mixed", "int16", "dynamic", "fp16", "float32"])
"""What `bundle.Precision` names, without loading that for `--help`."""

bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=DEFAULT_BUNDLE,
    help="Bundle that export or pack made: a folder or a .zip file.",
)
"""The bundle of every command that takes one."""

_DEVICE = click.option(
    "--device",
    default="cpu",
    metavar="PROFILE",
    help="Runtime and delegate: a name that `edgebcnn devices` lists, the path of your own .toml file, or auto for the"
    " fastest that is correct.",
)
_FALLBACK = click.option(
    "--allow-cpu-fallback",
    is_flag=True,
    help="Fall back to the CPU, with a notice, if the device's delegate is missing, partial or wrong.",
)
_FULL: dict[str, Any] = {"is_flag": True, "help": "Fail if the delegate, XNNPACK included, leaves any op to the CPU."}
_PRECISION = click.option(
    "--precision",
    type=PRECISIONS,
    show_default="the device's, or the first of these that the bundle has",
    help="Model of the bundle to run.",
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1, 64), show_default="the cores, at most 4", help="CPU threads."
)

device_options = (_DEVICE, _FALLBACK, click.option("--require-full-delegation", **_FULL), _PRECISION, _THREADS)
"""--device, --precision, --threads and what may pass."""

device_settings = (_DEVICE, _FALLBACK, setting("--require-full-delegation", **_FULL), _PRECISION, _THREADS)
"""The same for a command with many flags."""


def open_from(path: Path) -> Bundle:
    """Opens the bundle at `path`."""
    from edgebcnn.bundle import open_bundle

    check_default(path)
    return open_bundle(path)


def check_default(path: Path) -> None:
    """Fails with the commands that make a bundle where none was named and the default one is missing."""
    from edgebcnn.errors import BundleError

    if path == DEFAULT_BUNDLE and not path.exists():
        raise BundleError(f"there is no {path}: run edgebcnn train and edgebcnn export --int8 first, or give --bundle")


def device_for(
    bundle: Bundle, device: str, *, precision: Precision | None, threads: int | None, reporter: Reporter
) -> DeviceProfile:
    """The profile of that name or path; of `auto`, what was chosen for this bundle and machine."""
    from edgebcnn.device.auto import AUTO, Wanted, recall
    from edgebcnn.device.profile import load_profile

    if device != AUTO:
        return load_profile(device)
    choice = recall(bundle, Wanted(precision, threads), reporter=reporter)
    reporter.say(f"{choice.considered[0]}: the fastest that is correct; edgebcnn check --device auto measures again")
    return choice.chosen


def policy_of(*, allow_cpu_fallback: bool, require_full_delegation: bool) -> Policy:
    """What may pass, from the two flags."""
    from edgebcnn.device.delegate import Policy

    if allow_cpu_fallback and require_full_delegation:
        raise click.UsageError("--allow-cpu-fallback and --require-full-delegation exclude each other: give only one")
    return Policy(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
