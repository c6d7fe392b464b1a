"""Global average pooling: the means of the channels, without any second order, as a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgebcnn.model.head import Head, HeadShape


class Gap(Head):
    """Mean over locations; of two streams, the means of both."""

    tails = ("none",)

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the average of each map."""
        from edgebcnn.model.keras import keras

        if len(maps) == 1:
            return keras.layers.GlobalAveragePooling2D(name="average")(maps[0])
        averages = [
            keras.layers.GlobalAveragePooling2D(name=f"average_{side}")(each)
            for side, each in zip("ab", maps, strict=True)
        ]
        return keras.layers.Concatenate(name="average")(averages)


HEAD = Gap()
