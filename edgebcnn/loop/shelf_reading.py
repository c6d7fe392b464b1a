"""What is known about a frame where slots are watched? Their states, which of them settled, and what was classified."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgebcnn.device.classifier import Prediction
from edgebcnn.errors import CameraError
from edgebcnn.loop.reading import Reading, Reason, make_reading, utc
from edgebcnn.shelf.watch import Compliance, SeenSlot, ShelfWatch, SlotChange, SlotReading
from edgebcnn.sources.frames import Frame, Source

SlotLook = tuple[Frame, Reading]
"""What the model saw of a slot as a frame, and what it said of that, before any vote, as its reading."""


@dataclass(frozen=True)
class ShelfReading:
    """One frame, slot by slot.

    Attributes:
        source: Name of the source, without credentials.
        frame: Number of the frame in the source, from 0.
        time: When the frame was captured, ISO 8601 in UTC.
        changes: States that settled with this frame.
        slots: The settled state of every slot, in the order of the slots file.
        shelves: How every shelf stands.
        age_ms: From the frame's capture to the end of its reading, or to the moment when it was refused.
        latency_ms: Looking at the slots and classifying those that need it; None for a frame that was not looked at.
        reason: Why it was not.
        seen: Slots that were classified with this frame.
    """

    source: str
    frame: int
    time: str
    changes: tuple[SlotChange, ...]
    slots: tuple[SlotReading, ...]
    shelves: tuple[Compliance, ...]
    age_ms: float
    latency_ms: float | None
    reason: Reason | None = None
    seen: tuple[SeenSlot, ...] = field(default=(), repr=False, compare=False)

    def looks(self, frame: Frame) -> Iterator[SlotLook]:
        """Yields each slot that was classified, for those who take a picture with one product.

        Args:
            frame: The frame that was read.
        """
        for each in self.seen:
            # Without the frame's truth, which is about all of it.
            picture = Frame(frame.index, each.crop_bgr, frame.captured_monotonic_s, shelf=each.shelf, slot=each.slot)
            said = Prediction.of(each.probabilities, each.labels)
            reading = make_reading(picture, said, source=self.source, age_ms=self.age_ms)
            yield picture, reading.model_copy(update={"time": self.time})


class ShelfReader:
    """Shows the frames of a source to a watch.

    Attributes:
        last_change_s: When something on the shelf last moved or changed, by `time.monotonic()`; None before the first
            frame.

    Raises:
        CameraError: nobody knows how much time lies between the source's frames.
    """

    def __init__(self, watch: ShelfWatch, source: Source) -> None:
        if not source.is_live and source.fps is None:
            raise CameraError(
                f"{source.name} does not say how much time lies between its frames, by which slots are judged: give "
                "--slots a camera, a stream or a video"
            )
        self._watch, self._source = watch, source
        self.last_change_s: float | None = None

    def read(self, frame: Frame) -> ShelfReading:
        """Takes in one frame.

        Raises:
            DataError: the slots do not fit frames of this size.
            DeviceError: the model failed; so may a runtime's RuntimeError say.
        """
        begun_s, at_s = time.monotonic(), self._taken_s(frame)
        look = self._watch.look(frame.image_bgr, at_s=at_s)
        if self._watch.last_change_s == at_s:
            self.last_change_s = frame.captured_monotonic_s
        return self._reading(frame, look.changes, look.seen, latency_ms=1000 * (time.monotonic() - begun_s))

    def refuse(self, frame: Frame, reason: Reason) -> ShelfReading:
        """Takes in that one frame shows nothing; slots of which nothing is seen for long count as occluded."""
        return self._reading(frame, self._watch.miss(at_s=self._taken_s(frame)), reason=reason)

    def _taken_s(self, frame: Frame) -> float:
        """Frames of a file come as fast as they are decoded; what lasted how long, its own rate says."""
        return frame.index / self._source.fps if self._source.fps else frame.captured_monotonic_s

    def _reading(
        self,
        frame: Frame,
        changes: tuple[SlotChange, ...],
        seen: tuple[SeenSlot, ...] = (),
        *,
        latency_ms: float | None = None,
        reason: Reason | None = None,
    ) -> ShelfReading:
        age_ms = 1000 * (time.monotonic() - frame.captured_monotonic_s)
        return ShelfReading(
            source=self._source.name,
            frame=frame.index,
            time=utc(age_ms),
            changes=changes,
            slots=self._watch.readings(),
            shelves=self._watch.compliance(),
            age_ms=age_ms,
            latency_ms=latency_ms,
            reason=reason,
            seen=seen,
        )
