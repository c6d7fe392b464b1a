"""`edgebcnn devices` lists the device profiles, and what this machine has."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebcnn.device.machine import Inventory
    from edgebcnn.device.profile import DeviceProfile
    from edgebcnn.sources.cameras import Camera


_WIDTH = 22  # the longest name of a profile, and a gap


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print profiles and machine as JSON.")
def command(*, as_json: bool) -> None:
    """List the device profiles, and what this machine offers to run them.

    Shows runtimes, the processor and its features, memory, temperature, Vulkan GPUs, delegate libraries and cameras.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.device.machine import take_inventory
    from edgebcnn.device.profile import load_profile, profile_names
    from edgebcnn.sources.cameras import attached_cameras, csi_attached

    profiles = [load_profile(name) for name in profile_names()]
    inventory, cameras = take_inventory(), (*attached_cameras(), *csi_attached())
    if as_json:
        listed = {"profiles": [profile.model_dump(mode="json") for profile in profiles], **inventory.as_json()}
        listed["cameras"] = [asdict(camera) for camera in cameras]
        click.echo(json_bytes({"schema_version": 1, **listed}).decode(), nl=False)
    else:
        _print(profiles, inventory, cameras)


def _print(profiles: Sequence[DeviceProfile], inventory: Inventory, cameras: Sequence[Camera]) -> None:
    machine = inventory.machine
    subjects = {
        "machine": [str(machine), machine.system],
        "processor": [" · ".join((machine.cpu or "unknown", *machine.cpu_features))],
        "runtimes": [f"{runtime.name} {runtime.version or f'- {runtime.problem}'}" for runtime in inventory.runtimes],
        "GPUs": [str(gpu) for gpu in inventory.gpus] or ["none that Vulkan sees"],
        "delegates": inventory.delegates or ["none in the folders of libraries"],
        "cameras": [str(camera) for camera in cameras] or ["none"],
    }
    for profile in profiles:
        subjects[profile.name] = [
            f"{profile.runtime} · {profile.delegate} · {profile.precision} · {profile.said_of_measurements}",
            profile.description,
            *([str(profile.camera)] if profile.camera.model_fields_set else []),
        ]
    for subject, lines in subjects.items():
        for number, line in enumerate(lines):
            click.echo(f"{'' if number else subject:<{_WIDTH}}{line}")
