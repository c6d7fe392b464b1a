"""Flags of `edgebcnn run` that say where its web page is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgebcnn.progress import Reporter
    from edgebcnn.web.server import WebPage

_FLAGS = (
    click.option("--web", metavar="[HOST:]PORT", help="Serve a web page of the run, to this machine alone."),
    click.option(
        "--web-token",
        metavar="TOKEN",
        envvar="EDGEBCNN_WEB_TOKEN",
        show_envvar=True,
        help="What whoever looks must know; beyond this machine one is drawn where none is given.",
    ),
)

SERVES = {"--web-token": ("--web",)}
"""Flags that do nothing without --web."""


@dataclass(frozen=True)
class WebChoices:
    """What the flags say."""

    web: str | None
    web_token: str | None

    def open(self, *, reporter: Reporter, in_a_hurry: Callable[[], bool]) -> WebPage | None:
        """The page, where one is asked for; its port is taken, and it does not answer yet."""
        from edgebcnn.errors import MissingExtraError

        if self.web is None:
            return None
        try:
            import starlette  # noqa: F401 - looked for here, so that what else is missing is not called an extra
            import uvicorn  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("edgebcnn run --web", "web") from error
        from edgebcnn.web.listening import listen
        from edgebcnn.web.server import WebPage

        return WebPage(listen(self.web, self.web_token), reporter=reporter, in_a_hurry=in_a_hurry)


Command = TypeVar("Command", bound=Callable[..., None])


def web_flags(command: Command) -> Command:
    """Adds the flags to a command, which gets them as one `WebChoices`, `web`."""

    @wraps(command)
    def with_choices(*, web: str | None, web_token: str | None, **arguments: Any) -> None:
        command(web=WebChoices(web, web_token), **arguments)

    for flag in reversed(_FLAGS):
        with_choices = flag(with_choices)
    return with_choices  # type: ignore[return-value]
