"""The result for one frame of a watched shelf: states of the slots, settled changes, and classified slots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgebcnn.device.classifier import Prediction
from edgebcnn.errors import CameraError
from edgebcnn.loop.reading import Reading, Reason, make_reading, utc
from edgebcnn.shelf.watch import Compliance, SeenSlot, ShelfWatch, SlotChange, SlotReading
from edgebcnn.sources.frames import Frame, Source

ClassifiedSlot = tuple[Frame, Reading]
"""The image of a slot as a frame, and its reading before any vote."""


@dataclass(frozen=True)
class ShelfReading:
    """One frame, slot by slot.

    Attributes:
        source: Name of the source, without credentials.
        frame: Number of the frame in the source, from 0.
        time: When the frame was captured, ISO 8601 in UTC.
        changes: States that settled with this frame.
        slots: The settled state of every slot, in the order of the slots file.
        shelves: Planogram compliance of every shelf.
        age_ms: From the frame's capture to its result, or to the moment when it was skipped.
        latency_ms: Time to check the slots and classify those that need it; None for a skipped frame.
        reason: Why the frame was skipped.
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

    def classified_slots(self, frame: Frame) -> Iterator[ClassifiedSlot]:
        """Yields each classified slot as an image with one product, for sinks that take frames.

        Args:
            frame: The frame that was read.
        """
        for each in self.seen:
            # Without the frame's truth, which is about the whole frame.
            image = Frame(frame.index, each.crop_bgr, frame.captured_monotonic_s, shelf=each.shelf, slot=each.slot)
            predicted = Prediction.of(each.probabilities, each.labels)
            reading = make_reading(image, predicted, source=self.source, age_ms=self.age_ms)
            yield image, reading.model_copy(update={"time": self.time})


class ShelfReader:
    """Feeds the frames of a source to a `ShelfWatch`.

    Attributes:
        last_change_s: Time of the last movement or change on the shelf, by `time.monotonic()`; None before the first
            frame.

    Raises:
        CameraError: the time between the source's frames is unknown.
    """

    def __init__(self, watch: ShelfWatch, source: Source) -> None:
        if not source.is_live and source.fps is None:
            raise CameraError(
                f"{source.name} has no frame rate, which --slots needs: use --slots with a camera, a stream or a video"
            )
        self._watch, self._source = watch, source
        self.last_change_s: float | None = None

    def read(self, frame: Frame) -> ShelfReading:
        """Reads one frame.

        Raises:
            DataError: the slots do not fit frames of this size.
            DeviceError: inference failed; runtimes may raise RuntimeError instead.
        """
        begun_s, at_s = time.monotonic(), self._taken_s(frame)
        look = self._watch.look(frame.image_bgr, at_s=at_s)
        if self._watch.last_change_s == at_s:
            self.last_change_s = frame.captured_monotonic_s
        return self._reading(frame, look.changes, look.seen, latency_ms=1000 * (time.monotonic() - begun_s))

    def skip(self, frame: Frame, reason: Reason) -> ShelfReading:
        """Notes that a frame was skipped; slots that stay unseen for long count as occluded."""
        return self._reading(frame, self._watch.miss(at_s=self._taken_s(frame)), reason=reason)

    def _taken_s(self, frame: Frame) -> float:
        """Time of the frame; in a file by its frame rate, because its frames come as fast as they are decoded."""
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
