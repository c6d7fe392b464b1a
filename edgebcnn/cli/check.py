"""`edgebcnn check` shows that a bundle works on this device, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import bundle_option, device_options, open_from, policy_of
from edgebcnn.cli.flags.sections import SectionedCommand, section

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision


@click.command(
    cls=SectionedCommand,
    epilog="Exit code 0: correct. 5: the bundle was changed or is broken. 8: it does not run correctly here.",
)
@section("Bundle", bundle_option)
@section("Device", *device_options)
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
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
    """Check that a bundle works on this device, and measure it.

    Verifies all checksums. Replays the golden photos on the device's delegate and on the plain CPU. The receipt lists
    what ran, which ops the delegate took, how far predictions differ from those at export, accuracy and latency.
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
