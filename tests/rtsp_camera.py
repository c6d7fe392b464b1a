"""An RTSP camera in Python, whose packets are known and can be lost one by one: H.264 over TCP (RFC 2326, RFC 6184)."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import av
import numpy as np

FRAMES_PER_S = 25
PACKET_BYTES = 1400
CLOCK_HZ = 90_000
LAST_OF_PICTURE = 0x80  # in the sixth byte of a packet
ANSWERS = {
    "DESCRIBE": "Content-Type: application/sdp\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
}
DESCRIPTION = (
    "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:video\r\n"
)


def filmed(*, pictures: int, options: dict[str, str], seed: int = 0) -> list[bytes]:
    """A red scene with noise and a green bar that wanders through it, in H.264: the bytes of each picture."""
    rng = np.random.default_rng(seed)
    output = av.open(io.BytesIO(), "w", format="h264")
    video = output.add_stream("libx264", rate=FRAMES_PER_S, options={"g": "25", **options})
    video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
    coded: list[bytes] = []
    for number in range(pictures):
        image_bgr = rng.normal((30, 30, 220), 8, (180, 320, 3)).clip(0, 255).astype(np.uint8)
        image_bgr[:, 4 * number % 300 :][:, :20] = (30, 220, 30)
        coded += [bytes(packet) for packet in video.encode(av.VideoFrame.from_ndarray(image_bgr, "bgr24"))]
    return coded + [bytes(packet) for packet in video.encode(None)]


def packed(coded: Sequence[bytes]) -> list[bytes]:
    """The pictures as RTP packets, each with the header that RTSP puts before it."""
    packets: list[bytes] = []
    for number, picture in enumerate(coded):
        payloads = [payload for unit in re.split(rb"\x00?\x00\x00\x01", picture)[1:] for payload in _payloads(unit)]
        for payload in payloads:
            last = LAST_OF_PICTURE if payload is payloads[-1] else 0
            header = bytes([0x80, 96 | last]) + (len(packets) & 0xFFFF).to_bytes(2, "big")
            header += (number * CLOCK_HZ // FRAMES_PER_S).to_bytes(4, "big") + b"edge"
            packets.append(b"$\0" + len(header + payload).to_bytes(2, "big") + header + payload)
    return packets


def _payloads(unit: bytes) -> list[bytes]:
    """A unit of the stream as it is, or in fragments (FU-A) where it is longer than a packet."""
    if len(unit) <= PACKET_BYTES:
        return [unit]
    pieces = [unit[at : at + PACKET_BYTES] for at in range(1, len(unit), PACKET_BYTES)]
    marks = [0x80, *[0] * (len(pieces) - 2), 0x40]
    return [
        bytes([unit[0] & 0xE0 | 28, mark | unit[0] & 0x1F]) + piece for mark, piece in zip(marks, pieces, strict=True)
    ]


@contextmanager
def rtsp_camera(packets: Sequence[bytes], *, stays: bool = False) -> Iterator[str]:
    """Yields the address of a camera that sends each client these packets; if it `stays`, it is silent afterwards."""
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError), client.makefile("rb") as requests:
            for line in requests:
                verb = line.split()[0].decode() if b"RTSP/1.0" in line else ""
                if line.lower().startswith(b"cseq"):
                    number = line.split()[1].decode()
                elif verb:
                    asked = verb
                elif line == b"\r\n":
                    client.sendall(_answer(asked, number))
                    if asked == "PLAY":
                        for packet in packets:
                            client.sendall(packet)
                        over.wait(30 if stays else 0)
                        return

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        try:
            yield f"rtsp://user:s3cr3t@127.0.0.1:{listener.getsockname()[1]}/shelf"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)


def _answer(verb: str, number: str) -> bytes:
    body = DESCRIPTION if verb == "DESCRIBE" else ""
    head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{ANSWERS.get(verb, '')}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()
