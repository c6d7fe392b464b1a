"""Opens the web page of a run if one is requested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebcnn.progress import Reporter
from edgebcnn.web.listening import listen
from edgebcnn.web.serving import need_web

if TYPE_CHECKING:
    from edgebcnn.web.server import WebPage


@dataclass(frozen=True)
class WebChoices:
    """The flags of `edgebcnn run` that configure its web page."""

    web: str | None
    web_token: str | None
    web_origin: str | None = None
    web_history: Path | None = None

    def open(self, *, reporter: Reporter, in_a_hurry: Callable[[], bool]) -> WebPage | None:
        """Returns the page if one is requested; its port is open, but it serves nothing yet."""
        if self.web is None:
            return None
        need_web("edgebcnn run --web")
        from edgebcnn.web.server import WebPage

        return WebPage(
            listen(self.web, self.web_token, origin=self.web_origin), reporter=reporter, in_a_hurry=in_a_hurry
        )
