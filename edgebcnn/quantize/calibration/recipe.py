"""Reads calibration recipes: how photos are chosen, how ranges are found, and what an export may lose."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgebcnn import catalog
from edgebcnn.errors import DataError
from edgebcnn.quantize.calibration.ranges import Int8Rules

Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class GateLimits(BaseModel):
    """What a model file may lose against the compact model, in percentage points.

    Attributes:
        max_drop: Of top-1 over all held-out photos.
        max_product_drop: Of one product's photos.
        max_new_confusion: Of one product's photos that are newly taken for one other product.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_drop: Points = 0.5
    max_product_drop: Points = 10.0
    max_new_confusion: Points = 5.0

    def overridden(self, **limits: float | None) -> GateLimits:
        """These gates with every limit that is given, and not None, in place of their own."""
        given = {name: limit for name, limit in limits.items() if limit is not None}
        return GateLimits(**{**self.model_dump(), **given})


class Recipe(Int8Rules):
    """How calibration photos are chosen, and the ranges from what they show.

    Attributes:
        name: What the bundle records.
        description: What it is for, in one sentence.
        photos: How many photos to choose.
        min_photos: With fewer than these there is no export.
        seed: Chooses among photos that are equally good.
        group_pattern: Finds a photo's store, visit or shelf in its path, as `groups.groups_by_pattern` does; None
            where nothing tells them apart.
        gates: What the model may lose.
    """

    name: str = Field(min_length=1)
    description: str
    photos: int = Field(ge=1)
    min_photos: int = Field(default=1, ge=1)
    seed: int = Field(ge=0)
    group_pattern: str | None = None
    gates: GateLimits = GateLimits()


def load_recipe(name_or_path: str) -> Recipe:
    """Loads a recipe that comes with edgebcnn by its name, or a user's own by the path of its `.toml` file.

    Raises:
        DataError: no such recipe, or a key or value that does not fit.
    """
    return catalog.load(
        name_or_path, Recipe, package="edgebcnn._calibration", kind="calibration recipe", error=DataError
    )
