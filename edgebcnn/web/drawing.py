"""Serves the page for drawing slots on the camera's image, with the model's prediction for each slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from threading import Lock
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgebcnn.bundle import Label
from edgebcnn.errors import CameraError, EdgebcnnError, SlotsError
from edgebcnn.loop.reading import CANDIDATES
from edgebcnn.shelf.check import see_shapes
from edgebcnn.shelf.edit import Drawn, SlotsEditor
from edgebcnn.shelf.slots import MAX_CORNERS, Shelf, first_problem
from edgebcnn.shelf.watch import Classify
from edgebcnn.sources.stills import Stills
from edgebcnn.web.serving import body_of

JPEG_QUALITY = 92  # images are rare here, and small print must stay readable
MAX_SHAPES = 500  # of a request: the model takes each one as a frame
MAX_COORDINATE_PX = 1e5  # no image is larger, and a shape may stick out of it

_FILES = {
    "/": ("draw.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/draw.css": ("draw.css", "text/css"),
    "/draw.js": ("draw.js", "text/javascript"),
}


@dataclass(frozen=True)
class Model:
    """A model that classifies products.

    Attributes:
        labels: The products.
        classify: Returns their probabilities.
        width_over_height: Aspect of its input.
    """

    labels: Sequence[Label]
    classify: Classify
    width_over_height: float


class Save(BaseModel):
    """The slots that the page sends to be saved."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str | None
    shelf: tuple[Shelf, ...]


Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE_PX, le=MAX_COORDINATE_PX)]


class Shapes(BaseModel):
    """The shapes that the page sends for inference."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    shapes: Annotated[
        tuple[Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=3, max_length=MAX_CORNERS)], ...],
        Field(max_length=MAX_SHAPES),
    ]


class DrawingPage:
    """The page for one source and one slots file.

    Args:
        stills: Takes images; the first is taken at once.
        source: Name of the source, fit to be shown.
        editor: Makes the file's editor for images of that width and height.
        model: Classifies products; None without a bundle.
        done: Called when the person is done.

    Attributes:
        saved: How often the file was written.

    Raises:
        CameraError: the camera gives no image.
        DataError: the slots file cannot be used on it.
    """

    def __init__(
        self,
        stills: Stills,
        source: str,
        *,
        editor: Callable[[int, int], SlotsEditor],
        model: Model | None,
        done: Callable[[], None],
    ) -> None:
        self._stills, self._source, self._model, self._done = stills, source, model, done
        self._taking = Lock()
        self._pictures = 0
        self._picture_bgr = stills.take()
        height_px, width_px = self._picture_bgr.shape[:2]
        self._editor = editor(width_px, height_px)
        self._editor.load()
        self.saved = 0

    def application(self) -> Starlette:
        """The page and its API; it must be wrapped in a guard."""
        folder = files("edgebcnn.web")

        def shipped(request: Request) -> Response:
            name, kind = _FILES[request.url.path]
            return Response(folder.joinpath(name).read_bytes(), media_type=kind)

        asked: dict[str, Callable[[bytes], Any]] = {
            "/api/slots": lambda _: self._document(),
            "/api/picture": lambda _: self._take(),
            "/api/see": lambda body: self._see(Shapes.model_validate_json(body)),
            "/api/save": lambda body: self._save(Save.model_validate_json(body)),
            "/api/done": lambda _: self._done(),
        }

        async def answer(request: Request) -> Response:
            body = await body_of(request)
            return JSONResponse(await run_in_threadpool(asked[request.url.path], body))

        routes = [
            *(Route(path, shipped) for path in _FILES),
            Route("/picture.jpg", lambda _: Response(self._jpeg(), media_type="image/jpeg")),
            *(Route(path, answer, methods=["POST"]) for path in asked),
        ]
        return Starlette(routes=routes, exception_handlers={EdgebcnnError: _refused, ValidationError: _refused})

    def _document(self) -> dict[str, Any]:
        drawn: Drawn = self._editor.load()
        height_px, width_px = self._picture_bgr.shape[:2]
        return {
            "file": str(self._editor.path),
            "source": self._source,
            "width_px": width_px,
            "height_px": height_px,
            "picture": self._pictures,
            "labels": [
                label.model_dump(include={"name", "gtin"}) for label in (self._model.labels if self._model else ())
            ],
            "version": drawn.version,
            "has_comments": drawn.has_comments,
            "shelf": [shelf.model_dump(mode="json", exclude_none=True) for shelf in drawn.shelves],
        }

    def _jpeg(self) -> bytes:
        _, jpeg = cv2.imencode(".jpg", self._picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return jpeg.tobytes()

    def _take(self) -> int:
        """Takes a new image of the same size, and returns its number."""
        with self._taking:
            picture: NDArray[np.uint8] = self._stills.take()
            if picture.shape != self._picture_bgr.shape:
                height_px, width_px = picture.shape[:2]
                raise CameraError(
                    f"{self._source} gave a picture of {width_px} × {height_px}, on which slots of the first one do "
                    "not fit: take another"
                )
            self._picture_bgr = picture
            self._pictures += 1
            return self._pictures

    def _see(self, asked: Shapes) -> list[list[dict[str, Any]] | None]:
        """The most probable products of each shape, best first; null where one is too small to be a slot."""
        if self._model is None:
            raise EdgebcnnError("there is no bundle to ask: start edgebcnn slots with --bundle")
        model = self._model
        seen = see_shapes(asked.shapes, self._picture_bgr, model.classify, width_over_height=model.width_over_height)
        return [None if each is None else _best(each, model.labels) for each in seen]

    def _save(self, save: Save) -> str:
        version = self._editor.save(save.shelf, version=save.version)
        self.saved += 1
        return version


def _best(probabilities: NDArray[np.float32], labels: Sequence[Label]) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities)[:CANDIDATES]
    return [{"product": labels[int(each)].name, "score": round(float(probabilities[each]), 4)} for each in order]


def _refused(_request: Request, error: Exception) -> Response:
    """The error and, if a field is invalid, the path to it: its keys and list indices."""
    place: Sequence[str | int] = ()
    reason = str(error)
    if isinstance(error, ValidationError):
        place, reason = first_problem(error)
    elif isinstance(error, SlotsError) and error.place[0] == "shelf":  # the page shows no other field
        place, reason = error.place, error.reason
    return JSONResponse({"place": list(place), "reason": reason}, status_code=422)
