"""Serves the page of a review, for labeling field images with the keyboard, on this machine only.

It listens on loopback, under an address that nobody can guess, answers under the names of loopback only (so that no
other site's name can be pointed at it), and asks for nothing from elsewhere.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from threading import Event
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgebcnn.errors import EdgebcnnError
from edgebcnn.field.review import Review
from edgebcnn.web.serving import body_of, need_web, serve_until

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = "127.0.0.1"

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


def serve(review: Review, *, port: int, stop: Event, ready: Callable[[str], None]) -> None:
    """Serves a review until `stop` is set or the user finishes on the page.

    Args:
        review: The review.
        port: On loopback; 0 for any that is free.
        stop: Ends it.
        ready: Called with the page's address once it can be opened.

    Raises:
        MissingExtraError: Starlette or uvicorn is not installed.
        EdgebcnnError: the port is taken or not allowed.
    """
    token = secrets.token_urlsafe(18)
    app = application(review, token=token, finish=stop.set)
    with _listening(port) as listener:
        address = f"http://{LOOPBACK}:{listener.getsockname()[1]}/{token}/"
        serve_until(stop, app, listener, ready=lambda: ready(address))


def application(review: Review, *, token: str, finish: Callable[[], None]) -> Starlette:
    """The page and its API, below `/TOKEN/`.

    Args:
        review: The review.
        token: Part of every address.
        finish: Called when the person is done.

    Raises:
        MissingExtraError: Starlette or uvicorn is not installed.
    """
    need_web("edgebcnn review")
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route

    def shipped(name: str, media_type: str) -> Response:
        return Response(files("edgebcnn.field").joinpath(name).read_bytes(), media_type=media_type)

    def picture(request: Request) -> Response:
        return FileResponse(review.picture(request.path_params["frame"]))

    async def decide(request: Request) -> Response:
        said = _Said.model_validate_json(await body_of(request))
        await run_in_threadpool(review.decide, said.id, said.label, no_product=said.no_product)
        return Response(status_code=204)

    def end(request: Request) -> Response:
        finish()
        return Response(status_code=204)

    def refused(request: Request, error: Exception) -> Response:
        return Response(str(error), status_code=409, media_type="text/plain")

    routes = [
        Route("/", lambda request: shipped("review.html", "text/html")),
        Route("/review.js", lambda request: shipped("review.js", "text/javascript")),
        Route("/frames", lambda request: JSONResponse(_document(review))),
        Route("/frames/{frame}", picture),
        Route("/decisions", decide, methods=["POST"]),
        Route("/finish", end, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(_WithHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])],
        exception_handlers={EdgebcnnError: refused, ValidationError: refused},
    )


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    label: str | None
    no_product: bool = False


def _document(review: Review) -> dict[str, Any]:
    frames = []
    for answer in review.answers:
        shown = answer.model_dump(mode="json", include={"id", "edge", "edge_score", "full", "full_score", "time"})
        decision = review.decisions.get(answer.id)
        known = {
            "decided": decision is not None,
            "label": decision and decision.label,
            "no_product": decision is not None and decision.no_product,
        }
        frames.append(shown | known)
    return {
        "labels": review.labels,
        "frames": frames,
        "output": str(review.output),
        "no_product": str(review.no_product),
    }


class _WithHeaders:
    """Adds `_HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        async def sent(message: _Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self._app(scope, receive, sent)


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise EdgebcnnError(f"the page cannot listen on port {port} ({reason}): give another --port") from error
    return listener
