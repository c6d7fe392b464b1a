"""Controls access to a web page, and sets its security headers.

Without a token, only this machine reaches the port; but a web page elsewhere could make this machine's browser request
it under another name (DNS rebinding), so that only this machine's names are accepted. With a token, such a page
lacks the cookie, which belongs to the name under which the token was given. What changes something must come from the
page itself: a browser states the page's origin in `Origin`, and no page can change that.

Behind a proxy with TLS the page has another origin, which `--web-origin` names. `X-Forwarded-Host` is not used for
this: a page that was pointed at this machine could send it too.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edgebcnn.web.listening import Listening

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
COOKIE_LASTS_S = 90 * 24 * 3600  # a tablet on the wall that is switched on each morning

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Rejects requests without access, and adds `HEADERS` to every response.

    Args:
        app: The page.
        token: Access token; None where only this machine can connect.
        host: Name of this machine that is allowed without a token, beside `OWN_NAMES`.
        port: On which it listens; cookies know none, and two runs on a machine have two tokens.
        origin: Where a proxy shows the page, if one does.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, host: str, port: int, origin: str | None = None) -> None:
        self._app = app
        self._token = token
        self._origin = origin
        self._names = OWN_NAMES | {host.lower()}
        self._cookie = f"edgebcnn_{port}"

    @classmethod
    def of(cls, app: ASGIApp, listening: Listening) -> Guard:
        """Makes the guard of a page on this listener."""
        return cls(app, token=listening.token, host=listening.host, port=listening.port, origin=listening.origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or refuses it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        request = Request(scope)
        answer = self._refusal(request) or self._answer(request) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """A refusal, or the cookie for a token in the address; None lets the request through."""
        if self._token is None:
            name = request.headers.get("Host", "").lower()
            known = name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() else name
            return None if known in self._names else PlainTextResponse("Not under this name.\n", 403)
        given = request.query_params.get("token")
        if request.url.path == "/" and given is not None and self._is_token(given):
            answer = RedirectResponse("./", 303)  # the token leaves the address, the history and what is sent on
            # Not strict: the address may be opened from a message, and the cookie must survive the redirection.
            answer.set_cookie(
                self._cookie,
                self._cookie_value(),
                max_age=COOKIE_LASTS_S,
                httponly=True,
                samesite="lax",
                secure=self._is_behind_tls(request),
            )
            return answer
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if _same(request.cookies.get(self._cookie, ""), self._cookie_value()):
            return None
        advice = "This page needs its token: open the address with ?token=... that edgebcnn printed.\n"
        return PlainTextResponse(advice, 401, {"WWW-Authenticate": "Bearer"})

    def _refusal(self, request: Request) -> Response | None:
        """Refuses a request that changes state and does not come from the page itself."""
        origin = request.headers.get("Origin")
        if request.method in {"GET", "HEAD"} or origin is None:
            return None
        is_own = origin.partition("://")[2].lower() == request.headers.get("Host", "").lower()
        is_own = is_own or origin.lower() == self._origin
        return None if is_own else PlainTextResponse("Not from another page.\n", 403)

    def _is_behind_tls(self, request: Request) -> bool:
        """Whether the request came through the proxy; a cookie for https alone would be lost without it."""
        forwarded = request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        return forwarded and (self._origin or "").startswith("https://")

    def _is_token(self, given: str) -> bool:
        return _same(given, self._token or "")

    def _cookie_value(self) -> str:
        """A digest that does not reveal the token and is the same in every run."""
        return hmac.new((self._token or "").encode(), b"edgebcnn web page", hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    """Whether both are equal, compared in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), right.encode())
