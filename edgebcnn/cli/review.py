"""`edgebcnn review` opens a page on which a person labels the frames of a sample."""

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
    help="Audit of the sample; decisions are saved there.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="SAMPLE-labelled",
    help="Folder for the labeled photos, one folder per product, ready for train and evaluate.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on this machine; 0 for any free port.")
def command(*, sample: Path, audit_path: Path | None, output: Path | None, port: int) -> None:
    """Label the frames that a device kept, with the keyboard.

    Prints the address of a page that only this machine can open. It shows the frames of SAMPLE one by one, starting
    with those on which edge and full model differ. The right arrow accepts the full model's prediction, the up arrow or
    typing selects another product, the down arrow skips, the left arrow goes back. Each decision is saved at once; a
    review that ended, by Finish or Ctrl-C, resumes.
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
