"""Checks that the camera loop predicts for every frame what batch inference predicts, and measures its memory.

    python benchmarks/loop_against_batch.py RUN

Plays the held-out photos of a run to `edgebcnn run`, first as a folder, then as a lossless video, and compares its
JSONL with `Classifier.probabilities` on the same frames, prediction for prediction. Exit code 1 if one differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.preprocessing import read_photo

VIDEO_PX = 320


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--limit", type=int, help="Only so many photos.")
def main(run: Path, limit: int | None) -> None:
    """Compares the camera loop with batch inference on the held-out photos of RUN."""
    from edgebcnn.train.run_folder import open_run

    photos = [photo.path for photo in open_run(run).dataset.held_out][:limit]
    bundle = open_bundle(run / "bundle")
    with tempfile.TemporaryDirectory() as temporary:
        same = [
            compared("folder", bundle, *as_folder(photos, Path(temporary) / "photos")),
            compared("video", bundle, *as_video(photos, Path(temporary) / "photos.avi")),
        ]
    sys.exit(not all(same))


def as_folder(photos: Sequence[Path], folder: Path) -> tuple[Path, list[NDArray[np.uint8]]]:
    """A folder of links to the photos, in their order, and the frames that it shows."""
    folder.mkdir()
    for number, photo in enumerate(photos):
        (folder / f"{number:05}{photo.suffix}").symlink_to(photo.resolve())
    return folder, [read_photo(photo) for photo in photos]


def as_video(photos: Sequence[Path], video: Path) -> tuple[Path, list[NDArray[np.uint8]]]:
    """A lossless video of the photos, a frame each, and the frames as they are read back."""
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"FFV1"), 15, (VIDEO_PX, VIDEO_PX))
    for photo in photos:
        writer.write(cv2.resize(read_photo(photo), (VIDEO_PX, VIDEO_PX), interpolation=cv2.INTER_AREA))
    writer.release()
    reader, frames = cv2.VideoCapture(str(video)), []
    while (read := reader.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    return video, frames


def compared(name: str, bundle: Bundle, source: Path, frames: Sequence[NDArray[np.uint8]]) -> bool:
    """Runs the loop in a process of its own, prints how it compares, and says whether all is equal."""
    classifier = Classifier.from_bundle(bundle)
    apply = bundle.manifest.preprocessing.apply
    batch = np.concatenate([classifier.probabilities(apply(frame)[np.newaxis]) for frame in frames])
    events = source.with_name(f"{name}.jsonl")
    command = [
        sys.executable,
        "-m",
        "edgebcnn",
        "run",
        "--bundle",
        str(bundle.path),
        "--camera",
        str(source),
        "--every-frame",
    ]
    summary, peak_mb = finished([*command, "--jsonl", str(events), "--json"])
    readings = [json.loads(line) for line in events.read_text().splitlines()]
    scores = np.array([reading["score"] for reading in readings])
    labels = np.array([reading["class_id"] for reading in readings])
    same_labels = labels == batch.argmax(axis=1)
    # JSONL keeps four decimals; a step of the uint8 output is 0.0039.
    same_scores = np.abs(scores - batch.max(axis=1)) < 1e-4
    print(
        f"{name}: {len(frames)} frames, {same_labels.sum()} predictions and {same_scores.sum()} scores equal; "
        f"peak memory {peak_mb:.0f} MB; {summary['receipt']}"
    )
    return len(readings) == len(frames) and bool(same_labels.all() and same_scores.all())


def finished(command: Sequence[str]) -> tuple[dict[str, object], float]:
    """Standard output as JSON, and the peak resident memory of the process in MB (`VmHWM`, Linux)."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    peak_kb = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak_kb = int(status.partition("VmHWM:")[2].split()[0])
        except (OSError, IndexError):  # it has just ended
            break
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    return json.loads(process.stdout.read()), peak_kb / 1024


if __name__ == "__main__":
    main()
