"""Serves the web page of a run in its own thread, which may fail or hang without affecting the loop.

`/` is the page and `/picture.mjpg` its picture, of which `/picture.jpg` is one; `/api/state` has the rest as JSON, and
`/api/stream` the same twice a second, as server-sent events. `/api/history` lists the changes of slots, whose pictures
are at `/history/ID.jpg`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.progress import Reporter
from edgebcnn.sinks.listener import BoundedListener
from edgebcnn.sources.frames import Frame
from edgebcnn.web.board import Board, LiveRun, NewsSink, jpeg_of
from edgebcnn.web.feed import Feed
from edgebcnn.web.guard import Guard
from edgebcnn.web.history import History
from edgebcnn.web.listening import Listening
from edgebcnn.web.serving import within

PICTURES_PER_S = 5
STATE_EVERY_S = 0.5  # with `STALE_S`, a page shows within 3 s that nothing is current
BEAT_S = 0.1
HANG_S = 10.0
LEAVE_S = 0.25  # for clients to take the end of what they were reading
JOIN_S = 0.6

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/live.css": ("live.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PART = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--frame\r\n"


class WebPage:
    """The page of one run; the loop hands it frames as it does to any sink.

    Attributes:
        news: Takes the run's events.
    """

    def __init__(
        self,
        listening: Listening,
        *,
        reporter: Reporter,
        in_a_hurry: Callable[[], bool] = lambda: False,
        hang_s: float = HANG_S,
        history: Path | None = None,
    ) -> None:
        self._board = Board()
        self._history: History | None = None
        self._history_folder = history
        self.news = NewsSink(self._board)
        self._listening = listening
        self._reporter = reporter
        self._in_a_hurry = in_a_hurry
        self._hang_s = hang_s
        self._closing = threading.Event()
        self._beat_s = time.monotonic()
        self._pictured: Frame | None = None
        self._failures: set[str] = set()
        self._thread: threading.Thread | None = None

    def start(self, run: LiveRun) -> None:
        """Starts to serve, and reports the address.

        Raises:
            StorageError: the folder for the history cannot be used.
        """
        self._run, self._beat_s = run, time.monotonic()
        if run.watch:
            outlines = dict(zip(run.watch.names, run.watch.slot_map.outlines(), strict=True))
            self._history = History(run.stamp.run, outlines, folder=self._history_folder, on_failure=self._failed)
        self._feeds = {
            "picture": Feed("picture", self._picture, every_s=1 / PICTURES_PER_S, on_failure=self._failed),
            "state": Feed("state", self._state, every_s=STATE_EVERY_S, on_failure=self._failed),
        }
        self._reporter.say(str(self._listening))  # which is open already; what goes wrong is said after it
        self._thread = threading.Thread(target=self._work, name="web server", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="web watch", daemon=True).start()

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes a frame and its reading."""
        self._board.take(frame, reading)

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Takes a frame and what its slots show."""
        self._board.take(frame, reading)
        if self._history:
            self._history.take(frame, reading)

    def close(self) -> None:
        """Disconnects all clients; does not wait for a server that hangs."""
        self._closing.set()
        if self._history:
            self._history.close()
        if self._thread:
            self._thread.join(JOIN_S)

    # ---- in the threads of the feeds

    def _picture(self) -> bytes | None:
        frame = self._board.newest_frame()
        if frame is None or frame is self._pictured:
            return None
        self._pictured = frame
        return jpeg_of(frame.image_bgr)

    def _state(self) -> bytes:
        state = self._board.state(self._run)
        newest = self._history.newest if self._history else None
        return state.model_copy(update={"newest_change": newest}).model_dump_json().encode()

    def _failed(self, error: BaseException) -> None:
        """Reports each kind of failure once, because one per second would fill the journal."""
        kind = type(error).__name__
        if kind not in self._failures and not self._closing.is_set():
            self._failures.add(kind)
            self._reporter.say(f"the web page failed ({kind}: {error}), and the run goes on")

    # ---- in the threads of the server and of its watch

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except (Exception, SystemExit) as error:  # whatever it is, the loop goes on
            self._failed(error)
        if not (self._closing.is_set() or self._in_a_hurry()):
            self._reporter.say("the web page has ended: the run goes on, start it again to have the page")
        self._closing.set()

    async def _serve(self) -> None:
        for feed in self._feeds.values():
            feed.start()
        listener = BoundedListener(self._listening.socket)
        config = uvicorn.Config(
            within(listener, self._app()),
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        errors = logging.getLogger("uvicorn.error")
        errors.addHandler(handler := _Errors(self._failed))
        errors.propagate = False
        server = uvicorn.Server(config)
        beating = asyncio.create_task(self._beat(server))
        try:
            await server.serve(sockets=[listener])
        finally:
            beating.cancel()
            listener.close()
            self._let_go()
            errors.removeHandler(handler)

    async def _beat(self, server: uvicorn.Server) -> None:
        while not (self._closing.is_set() or self._in_a_hurry()):
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)
        self._closing.set()
        server.should_exit = True
        self._let_go()
        await asyncio.sleep(LEAVE_S)
        server.force_exit = True

    def _let_go(self) -> None:
        for feed in self._feeds.values():
            feed.end()

    def _watch(self) -> None:
        hangs = False
        while not self._closing.wait(min(1.0, self._hang_s / 4)):
            if (time.monotonic() - self._beat_s > self._hang_s) != hangs:
                hangs = not hangs
                what = f"hangs: no sign of life for {self._hang_s:g} s" if hangs else "answers again"
                self._reporter.say(f"the web page {what}; the run goes on")

    # ---- responses

    def _app(self) -> Guard:
        folder = files("edgebcnn.web")
        contents = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

        async def file(request: Request) -> Response:
            content, kind = contents[request.url.path]
            return Response(content, media_type=kind)

        routes = [
            *(Route(path, file) for path in contents),
            Route("/api/state", self._once("state", "application/json")),
            Route("/api/history", self._changes),
            Route("/history/{change}.jpg", self._change_picture),
            Route("/picture.jpg", self._once("picture", "image/jpeg")),
            Route("/api/stream", self._streamed(self._events, "text/event-stream")),
            Route("/picture.mjpg", self._streamed(self._parts, "multipart/x-mixed-replace; boundary=frame")),
        ]
        listening = self._listening
        return Guard.of(Starlette(routes=routes), listening)

    async def _changes(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "") for name in ("shelf", "slot", "state")}
        found = await run_in_threadpool(self._history.changes, **asked) if self._history else []
        return JSONResponse({"changes": found})

    async def _change_picture(self, request: Request) -> Response:
        change = request.path_params["change"]
        jpeg = await run_in_threadpool(self._history.picture, change) if self._history else None
        return Response(status_code=404) if jpeg is None else Response(jpeg, media_type="image/jpeg")

    def _once(self, feed: str, kind: str) -> Callable[[Request], object]:
        async def answer(_: Request) -> Response:
            async for item in self._feeds[feed].items():
                return Response(item, media_type=kind)
            return Response(status_code=503)

        return answer

    def _streamed(self, chunks: Callable[[], AsyncIterator[bytes]], kind: str) -> Callable[[Request], object]:
        async def answer(request: Request) -> Response:
            if request.method == "HEAD":  # the stream never ends
                return Response(media_type=kind)
            return StreamingResponse(chunks(), media_type=kind)

        return answer

    async def _events(self) -> AsyncIterator[bytes]:
        async for state in self._feeds["state"].items():
            yield b"data: %b\n\n" % state
        yield b"event: end\ndata:\n\n"

    async def _parts(self) -> AsyncIterator[bytes]:
        yield b"--frame\r\n"
        async for jpeg in self._feeds["picture"].items():
            yield _PART % (len(jpeg), jpeg)


class _Errors(logging.Handler):
    """Passes uvicorn's log messages to the failure callback."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._on_error = on_error

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        self._on_error(error or RuntimeError(record.getMessage()))
