"""Types of values that click does not have: each knows how a configuration file spells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # older releases of click cannot subscript it


class Size(_ParamType):
    """Width and height in pixels, as `1280x720`."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Reads both numbers."""
        from edgebcnn.camera_view import size_from

        if isinstance(value, tuple):
            return value
        try:
            return size_from(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    @staticmethod
    def spelled(size_px: tuple[int, int]) -> str:
        """The same as text."""
        return f"{size_px[0]}x{size_px[1]}"


class Ranks(_ParamType):
    """One rank or several, as `64,128,256`."""

    name = "D[,D...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Reads all of them."""
        if isinstance(value, list):
            return value
        try:
            ranks = [int(part) for part in str(value).split(",")]
        except ValueError:
            ranks = [0]
        if min(ranks) < 1:
            self.fail(f"{value!r} is not a rank, or several as in 64,128,256", param, ctx)
        return ranks

    @staticmethod
    def spelled(ranks: list[int]) -> str:
        """The same as text."""
        return ",".join(map(str, ranks))


class Address(click.types.StringParamType):
    """An address that may carry a password."""

    def is_secret(self, address: str) -> bool:
        """Whether it does; a CSI camera's path has an `@` as well, and is left out with it."""
        return "@" in address or "?" in address


class Secret(click.types.StringParamType):
    """A token, or an address whose path is often one."""

    def is_secret(self, _text: str) -> bool:
        """True: it is never written anywhere."""
        return True
