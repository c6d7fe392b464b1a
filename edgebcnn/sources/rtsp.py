"""Reads a network video with PyAV and tells which of its images arrived whole.

H.264 and H.265 describe most pictures by how they differ from those before. Where packets were lost, a decoder fills
the gap with something and draws all that follows on top of it, until the next key frame: a smear, which a model would
name as readily as any product. FFmpeg notices each loss in one place or another, which PyAV passes on and OpenCV not:

- The RTP receiver warns of packet numbers that are missing.
- The decoder fails, or marks the picture as corrupt: some missing packets are taken for a whole picture, though.
- The decoder notes a gap in the numbers of the pictures, where a camera left some out before it numbered the packets.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import av
import av.logging
import numpy as np

from edgebcnn.errors import CameraError
from edgebcnn.sources.capture import OPENCV_OPTIONS, OPTIONS_VARIABLE, Picture, not_opened
from edgebcnn.untrusted.images import MAX_PIXELS

RELEASE_TIMEOUT_S = 0.5  # where a camera is silent, the connection ends by itself once `silence_s` is over

# Over TCP nothing comes out of order, and the shortest queue does: without one, missing packets are not noticed. The
# codec is known from the camera's description, so that a look at one packet is enough; the default takes a second.
RTSP_OPTIONS = {
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",
    "reorder_queue_size": "2",
    "probesize": "32",
    "analyzeduration": "0",
}
MAX_WAITING = 100  # packets, one for each picture: a slow decoder must not fill the memory
LOST_PACKETS = "RTP: missed"
LOST_PICTURES = "Frame num gap"


@dataclass(frozen=True)
class _Received:
    """The coded picture, when it was here, and whether something is missing in it or before it."""

    packet: av.Packet[av.VideoStream]
    arrived_s: float
    is_damaged: bool


class WholeVideo:
    """A stream that FFmpeg reads, without the pictures that are damaged or drawn on top of damaged ones.

    A thread receives, so that a read that waits can be aborted, and a slow decoder does not make old pictures look new.

    Args:
        address: What FFmpeg can open.
        timeout_s: For the connection, and again for its first packet.
        silence_s: Between two packets.

    Raises:
        CameraError: nothing answers in time, or it is not a video; the message goes on after the source's name.
    """

    def __init__(self, address: str, *, timeout_s: float, silence_s: float) -> None:
        _keep_ffmpegs_log()
        with av.logging.Capture() as log:
            self._container = _opened(address, timeout_s, silence_s)
        self._video = self._container.streams.video[0]
        self._decoder = _new_decoder(self._video)
        self._awaits_key = True
        self._is_damaged = self._distrusts_key = _tells(log, LOST_PACKETS)  # the first pictures came while it opened
        self._received: queue.Queue[_Received | BaseException] = queue.Queue(MAX_WAITING)
        self._over = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name="receiving a video", daemon=True)
        self._receiver.start()

    def read(self) -> Picture:
        """Waits for the next picture; one that is damaged, or waits for a key frame after damage, is broken."""
        received = self._received.get()
        if isinstance(received, BaseException):
            raise received
        return self._judged(received)

    def abort(self) -> None:
        """Ends a read that waits."""
        self._over.set()
        with suppress(queue.Full):  # nobody waits
            self._received.put_nowait(CameraError("is aborted"))

    def release(self) -> None:
        """Closes the connection."""
        self._over.set()
        self._receiver.join(RELEASE_TIMEOUT_S)
        _give_free_memory_back()

    def _receive(self) -> None:
        packets = self._container.demux(self._video)
        try:
            while not self._over.is_set():
                with av.logging.Capture() as log:
                    packet = next(packets)
                if not packet.size:  # the last, which only flushes
                    raise CameraError("stopped giving frames")
                is_damaged = packet.is_corrupt or _tells(log, LOST_PACKETS)
                self._hand_over(_Received(packet, time.monotonic(), is_damaged))
        except av.error.FFmpegError:
            self._hand_over(CameraError("stopped giving frames"))
        except BaseException as error:  # raised again where the source is read
            self._hand_over(error)
        finally:
            self._container.close()

    def _hand_over(self, received: _Received | BaseException) -> None:
        while not self._over.is_set():
            with suppress(queue.Full):
                return self._received.put(received, timeout=RELEASE_TIMEOUT_S / 2)

    def _judged(self, received: _Received) -> Picture:
        packet, arrived_s = received.packet, received.arrived_s
        if received.is_damaged:
            self._note_damage()
        elif self._awaits_key and packet.is_keyframe:
            self._decoder = _new_decoder(self._video)  # one that concealed damage does not decode quite exactly again
            self._awaits_key, self._distrusts_key = self._distrusts_key, False
        frames = [] if self._awaits_key else self._decoded(packet)
        if self._awaits_key:
            return Picture(None, arrived_s, broken=int(self._is_damaged))
        if not frames:  # the decoder puts pictures in order, and this one is not next
            return Picture(None, arrived_s)
        self._is_damaged = False
        if frames[-1].width * frames[-1].height > MAX_PIXELS:
            return Picture(None, arrived_s, passed_over=len(frames) - 1, broken=1)
        image_bgr = np.asarray(frames[-1].to_ndarray(format="bgr24"), np.uint8)
        return Picture(image_bgr, arrived_s, passed_over=len(frames) - 1)

    def _decoded(self, packet: av.Packet[av.VideoStream]) -> list[av.VideoFrame]:
        with av.logging.Capture() as log:
            try:
                frames = self._decoder.decode(packet)
            except av.error.FFmpegError:
                self._note_damage()
                return []
        if any(frame.is_corrupt for frame in frames) or (_tells(log, LOST_PICTURES) and not packet.is_keyframe):
            self._note_damage()
        return frames

    def _note_damage(self) -> None:
        self._awaits_key = self._is_damaged = True


def _opened(address: str, timeout_s: float, silence_s: float) -> av.container.InputContainer:
    try:
        container = av.open(address, options=_options(address), timeout=(timeout_s, silence_s))
    except (av.error.FFmpegError, ValueError):  # not shown: it holds the address with its password
        raise not_opened(timeout_s) from None
    if not container.streams.video:
        container.close()
        raise not_opened(timeout_s)
    return container


def _give_free_memory_back() -> None:
    """A decoder's buffers leave glibc's heap in pieces that it keeps: 15 MB after a thousand connections."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # musl has none
        trim(ctypes.c_size_t(0))


def _new_decoder(video: av.VideoStream) -> av.VideoCodecContext:
    decoder = cast(av.VideoCodecContext, av.CodecContext.create(video.codec_context.name, "r"))
    decoder.extradata = video.codec_context.extradata
    decoder.thread_count = 1  # where threads share a picture, it marks less
    return decoder


def _options(address: str) -> dict[str, str]:
    """What FFmpeg should do differently, with what the user wants of OpenCV's FFmpeg."""
    own = os.environ.get(OPTIONS_VARIABLE, OPENCV_OPTIONS)
    wanted = dict(option.partition(";")[::2] for option in own.split("|")) if own != OPENCV_OPTIONS else {}
    options = {**RTSP_OPTIONS, **wanted} if address.lower().startswith("rtsp") else wanted
    if options.get("rtsp_transport") != "tcp" and "reorder_queue_size" not in wanted:
        options.pop("reorder_queue_size", None)  # what comes out of order is put in order
    return options


def _keep_ffmpegs_log() -> None:
    """Lets `av.logging.Capture` see what FFmpeg notes, and nobody else: it repeats addresses with their passwords."""
    logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.DEBUG)


def _tells(log: list[tuple[int, str, str]], of: str) -> bool:
    return any(message.startswith(of) for _, _, message in log)
