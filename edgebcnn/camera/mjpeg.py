"""Where does one picture of a bare MJPEG stream end and the next begin?"""

from __future__ import annotations

from edgebcnn.camera.jpeg import END
from edgebcnn.camera.multipart import MAX_PICTURE_BYTES
from edgebcnn.errors import CameraError


class JpegCutter:
    """Cuts JPEGs that follow each other with nothing between.

    A picture ends at its end marker, which cannot stand within coded pixels: there, a zero follows each byte 0xFF. What
    is no picture is cut all the same, and then decodes to nothing.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def cut(self, received: bytes) -> list[bytes]:
        """Takes what came and returns the pictures that it completed, oldest first.

        Raises:
            CameraError: there is more without an end than any picture has.
        """
        looked_through = max(0, len(self._received) - 1)  # an end marker may have come in two halves
        self._received += received
        pictures = []
        while (end := self._received.find(END, looked_through)) >= 0:
            pictures.append(bytes(self._received[: end + len(END)]))
            del self._received[: end + len(END)]
            looked_through = 0
        if len(self._received) > MAX_PICTURE_BYTES:
            raise CameraError("sends no pictures but something without end")
        return pictures
