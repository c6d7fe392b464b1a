"""Keeps a sample of frames without delaying the loop: it draws in the loop, and writes in a background thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision
from edgebcnn.errors import StorageError
from edgebcnn.field.plan import Boosts
from edgebcnn.field.record import Record, encoded
from edgebcnn.field.sample import SampleFolder
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Reporter
from edgebcnn.sources.frames import Frame
from edgebcnn.worker import WhenFull, Worker

WAITING_FRAMES = 8  # 50 MB of 1080p; a disk that is so far behind does not catch up

Redact = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], int]]
"""Returns a frame `(h, w, 3)` uint8 BGR without faces, and the number of faces. It never modifies its input, which it
may return where there is no face."""


@dataclass(frozen=True)
class SampleCounts:
    """What became of the frames of one run.

    Attributes:
        offered: Frames with a product.
        kept: Frames that were written; later frames may have replaced them.
        lost: Frames that were drawn but not written, because the disk was slow or full, or faces could not be blurred.
        held: Frames in the sample now, including earlier runs.
    """

    offered: int
    kept: int
    lost: int
    held: int

    def __str__(self) -> str:
        """`117 of 5200 frames kept · 340 in the sample`."""
        lost = f" · {self.lost} lost" if self.lost else ""
        return f"{self.kept} of {self.offered} frames kept{lost} · {self.held} in the sample"

    def as_json(self) -> dict[str, int]:
        """Every count by name."""
        return asdict(self)


class Sampler:
    """A frame sink that keeps a sample of the frames.

    Args:
        folder: Where frames are kept; closed by this sampler.
        rate: Probability of keeping a frame without a boost, above 0 and up to 1.
        run: Id of the run, as in its events.
        precision: The model file that runs.
        classes: Number of products.
        preprocessing: Turns a frame into the model's input.
        reporter: Informed when frames cannot be written.
        at_once: Images per frame: the number of slots, where those are watched.
        redact: Removes faces from a frame before it is written; by default nothing is removed. It runs in the sampler's
            thread, and a frame for which it fails is not kept.
        may_wait: Whether the loop waits rather than lose a frame, as with the frames of a file.
        in_a_hurry: Whether somebody waits for the end of the run.
        rng: Random numbers; by default different in every run.
    """

    def __init__(
        self,
        folder: SampleFolder,
        *,
        rate: float,
        run: str,
        precision: Precision,
        classes: int,
        preprocessing: Preprocessing,
        reporter: Reporter,
        at_once: int = 1,
        redact: Redact | None = None,
        may_wait: bool = False,
        in_a_hurry: Callable[[], bool] = lambda: False,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._folder = folder
        self._rate = rate
        self._run = run
        self._precision = precision
        self._preprocessing = preprocessing
        self._reporter = reporter
        self._redact = redact
        self._rng = rng or np.random.default_rng()
        self._boosts = Boosts(folder.frames_by_product(classes))
        self._offered = self._kept = self._lost = 0
        self._is_full = self._is_blind = False
        self._worker: Worker[tuple[Record, Frame]] = Worker(
            "sampler",
            self._keep,
            capacity=WAITING_FRAMES * at_once,
            when_full=WhenFull.WAIT if may_wait else WhenFull.DROP_NEWEST,
            on_close=lambda deadline: self._close_folder(),
            in_a_hurry=in_a_hurry,
            label="--sample",
        )

    def write(self, frame: Frame, reading: Reading) -> None:
        """Draws a number, and queues the frame if it is to be kept; frames without a product are not sampled."""
        self._worker.raise_failure()
        if reading.label is None:
            return
        boost = self._boosts.next(reading.top3)
        draw = float(self._rng.random())
        number, self._offered = self._offered, self._offered + 1
        if draw / boost >= min(self._rate, self._folder.threshold):
            return
        assert reading.class_id is not None and reading.score is not None
        record = Record(
            id=f"{self._run}-{number}",
            bundle=self._folder.bundle,
            precision=self._precision,
            rate=self._rate,
            boost=boost,
            draw=draw,
            class_id=reading.class_id,
            label=reading.label,
            score=reading.score,
            time=reading.time,
            source=reading.source,
            frame=reading.frame,
            photo=reading.photo,
            truth=reading.truth,
            shelf=frame.shelf,
            slot=frame.slot,
        )
        self._worker.put((record, frame))

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Draws for each slot that was classified with the frame."""
        self._worker.raise_failure()
        for image, slot_reading in reading.classified_slots(frame):
            self.write(image, slot_reading)

    def close(self) -> None:
        """Writes queued frames, for up to 10 s at the end of a source and for half a second after a signal."""
        self._worker.finish()

    def counts(self) -> SampleCounts:
        """Returns what became of the frames so far."""
        return SampleCounts(self._offered, self._kept, self._lost + self._worker.dropped, self._folder.frames)

    def _keep(self, drawn: tuple[Record, Frame]) -> None:
        record, frame = drawn
        image_bgr = frame.image_bgr
        if self._redact:
            try:
                image_bgr, faces = self._redact(image_bgr)
            except Exception as error:  # whatever it is: a frame that may show a face is not written
                return self._lose_unredacted(error)
            record = record.model_copy(update={"faces_blurred": faces})
        content = encoded(record, self._preprocessing.apply(image_bgr))
        try:
            self._kept += self._folder.add(record, content)
            self._is_full = False
        except StorageError as error:  # the run continues; the disk may have room later
            self._lost += 1
            if not self._is_full:
                self._reporter.say(f"sample: {error}; no frame is kept until then")
            self._is_full = True

    def _lose_unredacted(self, error: Exception) -> None:
        self._lost += 1
        if not self._is_blind:
            self._reporter.say(f"sample: faces cannot be blurred ({error}); a frame for which that fails is not kept")
        self._is_blind = True

    def _close_folder(self) -> None:
        try:
            self._folder.close()
        except StorageError as error:  # a sample without its count is still usable
            self._reporter.say(f"sample: {error}")
