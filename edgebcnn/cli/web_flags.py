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

TOKEN = click.option(
    "--web-token",
    metavar="TOKEN",
    envvar="EDGEBCNN_WEB_TOKEN",
    show_envvar=True,
    help="What whoever looks must know; beyond this machine one is drawn where none is given.",
)
"""Of every page that may listen beyond this machine."""

_FLAGS = (
    click.option("--web", metavar="[HOST:]PORT", help="Serve a web page of the run, to this machine alone."),
    TOKEN,
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
        from edgebcnn.web.serving import need_web

        if self.web is None:
            return None
        need_web("edgebcnn run --web")
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
