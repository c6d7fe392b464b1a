"""An RTSP camera, for the system's Python, which has GStreamer's bindings: `python3 rtsp_server.py PORT`."""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

# Noise between two reds, whose mean is the red of tests/tiny_bundle.py. A live source: one that reads files has to fill
# its pipeline before the first client is answered, and once in thirty connections does not.
RED_NOISE = "videotestsrc is-live=true pattern=snow foreground-color=0xffff3c3c background-color=0xffb90000"
PIPELINE = (
    f"( {RED_NOISE} ! video/x-raw,format=I420,width=640,height=360,framerate=25/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
)


def main(port: str) -> None:
    """Serves red pictures in H.264 at rtsp://127.0.0.1:PORT/shelf until it is killed; prints `ready`."""
    Gst.init(None)
    if Gst.ElementFactory.find("x264enc") is None:
        sys.exit("GStreamer has no x264enc")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE)
    # A client that hangs up while its pipeline starts leaves it half-started: for 20 s, whoever shares the pipeline, or
    # the thread that waits for it, gets no answer. So each client has its own of both.
    factory.set_shared(False)
    server.get_thread_pool().set_max_threads(-1)
    server.get_mount_points().add_factory("/shelf", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(sys.argv[1])
