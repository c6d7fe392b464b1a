"""What a page may ask the model about is bounded before it is measured."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgebcnn.shelf.slots import MAX_CORNERS
from edgebcnn.web.drawing import MAX_SHAPES, Shapes

CORNER = "[1.0, 2.0]"


def shapes(count: int, corners: int = 3, corner: str = CORNER) -> str:
    shape = f"[{', '.join([corner] * corners)}]"
    return f'{{"shapes": [{", ".join([shape] * count)}]}}'


def test_as_many_shapes_and_corners_as_may_be_are_taken() -> None:
    assert len(Shapes.model_validate_json(shapes(MAX_SHAPES)).shapes) == MAX_SHAPES
    assert len(Shapes.model_validate_json(shapes(1, MAX_CORNERS)).shapes[0]) == MAX_CORNERS


@pytest.mark.parametrize(
    "asked",
    [
        shapes(20_000),
        shapes(1, 20_000),
        shapes(1, 2),
        shapes(1, corner="[1e308, 1e308]"),
        shapes(1, corner="[-1e308, 0.0]"),
        shapes(1, corner="[1e999, 0.0]"),
        shapes(1, corner="[NaN, 0.0]"),
        "[" * 100_000,
    ],
    ids=["shapes", "corners", "too few", "huge", "far left", "infinite", "no number", "nested"],
)
def test_more_is_refused_before_anything_is_measured(asked: str) -> None:
    with pytest.raises(ValidationError):
        Shapes.model_validate_json(asked)
