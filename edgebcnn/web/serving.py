"""How is a page served for as long as a person works on it?"""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event, Thread
from typing import TYPE_CHECKING

from edgebcnn.errors import MissingExtraError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

POLL_S = 0.1
LEAVE_S = 3.0  # for requests in flight


def need_web(feature: str) -> None:
    """Makes sure that what serves pages is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise MissingExtraError(feature, "web")


def serve_until(stop: Event, app: ASGIApp, listener: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answers on a socket that listens until `stop` is set.

    Args:
        stop: Ends it.
        app: What answers.
        listener: Bound, and closed by the caller.
        ready: Called once the page can be opened.
    """
    from uvicorn import Config, Server

    server = Server(Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1))
    # In a thread of its own it leaves the signals alone.
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True)
    thread.start()
    ready()
    while thread.is_alive() and not stop.wait(POLL_S):
        pass
    server.should_exit = True
    thread.join(LEAVE_S)
