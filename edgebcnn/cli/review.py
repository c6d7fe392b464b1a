"""`edgebcnn review`: what do the frames of a sample really show?"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("sample", type=click.Path(path_type=Path))
@click.option(
    "--audit",
    "audit_path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="SAMPLE-audit",
    help="What audit wrote of the sample; decisions are saved there.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="SAMPLE-labelled",
    help="Where the labelled photos go, one folder per product, as train and evaluate take them.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on this machine; 0 for any that is free.")
def command(*, sample: Path, audit_path: Path | None, output: Path | None, port: int) -> None:
    """Let a person label the frames that a device kept.

    Prints the address of a page that this machine alone can open. It shows frame after frame of SAMPLE, those on which
    edge and full model differ first. The right arrow keeps what the full model says, the up arrow or typing picks
    another product, the down arrow skips, the left one goes back. Each decision is saved at once; a review that was
    ended, by Finish or Ctrl-C, goes on.
    """
    from edgebcnn.cli.console import stdout
    from edgebcnn.cli.process import stopped_by_signals
    from edgebcnn.field.review import Review
    from edgebcnn.field.review_page import serve

    here = sample.absolute()
    audit_at, labelled = (
        given or here.with_name(f"{here.name}-{part}") for given, part in ((audit_path, "audit"), (output, "labelled"))
    )
    with Review(sample, audit_at, output=labelled) as review, stopped_by_signals() as stop:
        serve(review, port=port, stop=stop, ready=lambda address: stdout.print(f"open {address}"))
        stdout.print(f"{review.counts()}; labelled photos: {labelled}")
