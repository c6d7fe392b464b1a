"""How do the commands that run a bundle find the bundle and the device?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle, Precision
    from edgebcnn.device.delegate import Policy
    from edgebcnn.device.profile import DeviceProfile
    from edgebcnn.progress import Reporter

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_BUNDLE = Path("runs/latest/bundle")

PRECISIONS = click.Choice(["int8", "mixed", "int16", "dynamic", "fp16", "float32"])
"""What `bundle.Precision` names, without loading that for `--help`."""

_OPTIONS = (
    click.option(
        "--device",
        default="cpu",
        metavar="PROFILE",
        help="Runtime and delegate: a name that `edgebcnn devices` lists, the path of your own .toml file, or auto for"
        " the fastest that is right.",
    ),
    click.option(
        "--allow-cpu-fallback",
        is_flag=True,
        help="Go on with the CPU, and say so, where the device's delegate is missing, partial or wrong.",
    ),
    click.option(
        "--require-full-delegation", is_flag=True, help="Refuse where the delegate, even XNNPACK, leaves any op."
    ),
    click.option(
        "--precision",
        type=PRECISIONS,
        show_default="the device's, or the first of these that the bundle has",
        help="Which of the bundle's models to run.",
    ),
    click.option("--threads", type=click.IntRange(1, 64), show_default="the cores, at most 4", help="CPU threads."),
)


def open_from(path: Path) -> Bundle:
    """The bundle there; where the default one is missing, the error says what makes it."""
    from edgebcnn.bundle import open_bundle

    check_default(path)
    return open_bundle(path)


def check_default(path: Path) -> None:
    """Where a bundle that nobody named is missing, the error says what makes it."""
    from edgebcnn.errors import BundleError

    if path == DEFAULT_BUNDLE and not path.exists():
        raise BundleError(f"there is no {path}: run edgebcnn train and edgebcnn export --int8 first, or name a bundle")


def device_options(command: Command) -> Command:
    """Adds --device, --precision, --threads and what may pass."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def device_for(
    bundle: Bundle, device: str, *, precision: Precision | None, threads: int | None, reporter: Reporter
) -> DeviceProfile:
    """The profile of that name or path; of `auto`, what was chosen for this bundle and machine."""
    from edgebcnn.device.auto import AUTO, Wanted, recall
    from edgebcnn.device.profile import load_profile

    if device != AUTO:
        return load_profile(device)
    choice = recall(bundle, Wanted(precision, threads), reporter=reporter)
    reporter.say(f"{choice.considered[0]}: the fastest that is right; edgebcnn check --device auto measures again")
    return choice.chosen


def policy_of(*, allow_cpu_fallback: bool, require_full_delegation: bool) -> Policy:
    """What may pass, from the two flags."""
    from edgebcnn.device.delegate import Policy

    if allow_cpu_fallback and require_full_delegation:
        raise click.UsageError("--allow-cpu-fallback and --require-full-delegation exclude each other: give one")
    return Policy(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
