"""Serves a page for as long as a person works on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING

from edgebcnn.errors import MissingExtraError
from edgebcnn.sinks.listener import BoundedListener

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

POLL_S = 0.1
LEAVE_S = 3.0  # for requests in flight
MAX_BODY_BYTES = 4 << 20  # of a request: a slots file of thousands of slots is smaller
BODY_S = 10.0  # a slower client could hold a connection indefinitely


def need_web(feature: str) -> None:
    """Checks that Starlette and uvicorn are installed.

    Raises:
        MissingExtraError: one of them is not.
    """
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise MissingExtraError(feature, "web")


async def body_of(request: Request, *, within_s: float = BODY_S) -> bytes:
    """Returns the body of a request, within limits of size and time.

    Raises:
        HTTPException: it is larger, or comes more slowly.
    """
    from starlette.exceptions import HTTPException

    async def read() -> bytes:
        parts, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise HTTPException(413)
            parts.append(chunk)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), within_s)
    except asyncio.TimeoutError:
        raise HTTPException(408) from None


def serve_until(stop: Event, app: ASGIApp, listener: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serves an app on a listening socket until `stop` is set.

    Args:
        stop: Ends it.
        app: The ASGI app.
        listener: Bound and listening; it is closed at the end.
        ready: Called once the page can be opened.
    """
    from uvicorn import Config, Server

    bounded = BoundedListener(listener)
    config = Config(
        within(bounded, app),
        http="h11",
        ws="none",
        loop="asyncio",  # the only one that accepts through a socket of another class
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    # In a thread of its own it leaves the signals alone.
    thread = Thread(target=server.run, kwargs={"sockets": [bounded]}, name="page", daemon=True)
    with bounded:
        thread.start()
        ready()
        while thread.is_alive() and not stop.wait(POLL_S):
            pass
        server.should_exit = True
        thread.join(LEAVE_S)


def within(listener: BoundedListener, app: ASGIApp) -> ASGIApp:
    """Wraps an app so that a connection counts as idle except while one of its requests is answered."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with listener.serving(scope["client"]):
            await app(scope, receive, send)

    return answer
