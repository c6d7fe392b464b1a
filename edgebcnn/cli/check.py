"""`edgebcnn check`: is a bundle right, here, now, and how fast?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import DEFAULT_BUNDLE, device_options, open_from, policy_of

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision


@click.command(epilog="Exit code 0: right. 5: the bundle was changed or is broken. 8: it does not run right here.")
@click.argument("bundle", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE)
@device_options
@click.option("--json", "as_json", is_flag=True, help="The receipt as JSON.")
def command(
    *,
    bundle: Path,
    device: str,
    allow_cpu_fallback: bool,
    require_full_delegation: bool,
    precision: Precision | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Check that a bundle is right on this device, and measure it.

    Every byte is compared with the export. The golden photos are replayed on the device's delegate and on the CPU
    without one. The receipt says what ran, which ops it took, how far its answers lie from those at export, how often
    they are right, and how fast they come.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.device.auto import AUTO, Wanted, measure
    from edgebcnn.device.check import check_bundle
    from edgebcnn.device.profile import load_profile
    from edgebcnn.errors import DeviceError

    policy = policy_of(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
    reporter = TerminalReporter()
    opened = open_from(bundle)
    choice = measure(opened, Wanted(precision, threads), reporter=reporter) if device == AUTO else None
    report = check_bundle(
        opened,
        choice.chosen if choice else load_profile(device),
        precision=precision,
        threads=threads,
        policy=policy,
        considered=choice.considered if choice else (),
        reporter=reporter,
    )
    click.echo(json_bytes(report.as_json()).decode() if as_json else f"{report}\n", nl=False)
    if report.problems:
        raise DeviceError(report.verdict)
