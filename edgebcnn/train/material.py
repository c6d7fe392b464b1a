"""What do the stages of a run read: augmented photos, through the layers that are frozen for now, and cached.

photos ── augmented copies ── frozen prefix ── `features` ── rest of the backbone, frozen for now ── `maps`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.model.bcnn import Bcnn
from edgebcnn.model.streams import frozen_layers
from edgebcnn.progress import Advance
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.features import AugmentedPhotos, Pictures, PreparedPhotos, cached
from edgebcnn.train.fit import Examples
from edgebcnn.train.inference import inference

Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Advance]]
"""Description and number of pieces to a progress bar."""

TrainAndVal: TypeAlias = tuple[Examples, Examples | None]
"""Training and validation examples of a stage; the latter is None where val is trained on too."""


class Material:
    """The examples of one run, computed on first use.

    Args:
        config: The run's choices.
        dataset: Its photos.
        folder: Where caches lie; an interrupted one resumes where it stopped.
        bar: Opens a progress bar.
        head_only: Whether only feature maps are needed, so that no outputs of the prefix need be kept.
    """

    def __init__(
        self, config: TrainConfig, dataset: ProductDataset, folder: Path, bar: Bar, *, head_only: bool
    ) -> None:
        self._config, self._dataset, self._folder, self._bar = config, dataset, folder, bar
        self._head_only = head_only
        self._features: TrainAndVal | None = None

    def features(self, bcnn: Bcnn) -> TrainAndVal:
        """Examples at the end of the frozen prefix (the images, where nothing is frozen)."""
        if self._features is None:
            made_from = {"weights": self._config.weights, "frozen_through": frozen(self._config), "stage": "prefix"}
            self._features = self._cached("features", *self._pictures(), bcnn.prefix, made_from)
        return self._features

    def maps(self, name: str, bcnn: Bcnn) -> TrainAndVal:
        """Examples at the end of the backbone, whose state `name` names."""
        if self._head_only:
            return self._cached(f"maps-{name}", *self._pictures(), backbone_of(bcnn), {"stage": name})
        train, val = self.features(bcnn)
        val_inputs = None if val is None else val.inputs
        return self._cached(f"maps-{name}", train.inputs, val_inputs, bcnn.suffix, {"stage": name})

    def _pictures(self) -> tuple[AugmentedPhotos, PreparedPhotos | None]:
        config = self._config
        views = AugmentedPhotos(
            self._learned_from, config.preprocessing(config.train_px), config.augmentation, config.copies, config.seed
        )
        val = PreparedPhotos(self._dataset.val, config.preprocessing(config.input_px)) if self._dataset.val else None
        return views, val

    @property
    def _learned_from(self) -> tuple[Photo, ...]:
        return (*self._dataset.train, *self._dataset.unlabelled)

    def _cached(
        self, name: str, train: Pictures, val: Pictures | None, network: Any | None, made_from: dict[str, Any]
    ) -> TrainAndVal:
        compute = None if network is None else inference(network)
        config = self._config.model_dump(mode="json", exclude=_NOT_OF_THE_BACKBONE)

        def examples(split: str, source: Pictures, photos: Sequence[Photo]) -> Examples:
            file = self._folder / f"{name}-{split}.bin"
            with self._bar(f"{name}, {split}", len(source)) as advance:
                rows = cached(
                    file, source, compute, made_from={**made_from, "split": split, "config": config}, advance=advance
                )
            return Examples(rows, class_ids(photos))

        of_train = examples("train", train, self._learned_from)
        return of_train, None if val is None else examples("val", val, self._dataset.val)


def backbone_of(bcnn: Bcnn) -> Callable[..., Any]:
    """Image to feature map."""
    if bcnn.prefix is None:
        return lambda image, training: bcnn.suffix(image, training=training)
    prefix = bcnn.prefix
    return lambda image, training: bcnn.suffix(prefix(image, training=training), training=training)


def class_ids(photos: Sequence[Photo]) -> NDArray[np.int64]:
    """`(n,)` classes of photos."""
    return np.array([photo.class_id for photo in photos], np.int64)


def frozen(config: TrainConfig) -> str | None:
    """The layers that a run freezes, as `build` takes them."""
    return frozen_layers(config.streams, weights=config.weights, frozen_through=config.frozen_through)


_NOT_OF_THE_BACKBONE = {
    *("full_head", "full_finetune", "compact_head", "compact_finetune"),
    *("pooling", "rank", "tail", "class_rank", "distil_share", "temperature", "pooled_weight"),
}
