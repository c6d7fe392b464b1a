"""A new pooling is one file: written into the folder of the poolings, it trains, compresses and exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from edgebcnn.errors import TrainingError
from edgebcnn.model import heads
from edgebcnn.progress import Silent
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.export import export
from edgebcnn.train.compress import CompressChoices, compress
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.steps import train
from tests.blocks import draw_blocks

TOY = '''
"""Mean over locations of the positive parts of a projection."""

from edgebcnn.model.head import Head


class Toy(Head):
    """Mean over locations of max(U a, 0)."""

    tails = ("tanh", "l2")
    rank = 12

    def check_rank(self, rank):
        if rank % 3:
            raise ValueError(f"toy takes a multiple of three, not {rank}")

    def max_rank(self, channels):
        return sum(channels)

    def pool(self, shape, maps):
        from edgebcnn.model.keras import keras
        from edgebcnn.model.pooling import shared_projection

        positive = keras.layers.ReLU(name="positive")(shared_projection(maps, shape.rank))
        return keras.layers.GlobalAveragePooling2D(name="average")(positive)

    def folded(self, weights, scale, shift):
        if (scale <= 0).any():
            return {}
        return {"project": [weights["project"][0] * scale], "tail_BN": [shift]}


HEAD = Toy()
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a pooling whose only file has just been written."""
    folder = tmp_path / "heads"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"{heads.__name__}.toy", raising=False)
    return "toy"


def test_a_new_pooling_trains_and_exports_to_an_int8_bundle(toy: str, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(draw_blocks(tmp_path / "data", per_product={"train": 6, "val": 2, "test": 3})),
        streams="small",
        weights="none",
        train_px=32,
        input_px=32,
        pooling=toy,
        copies=1,
        full_finetune=StageConfig(epochs=1, head_rate=1e-3, backbone_rate=2e-3),
        compact_finetune=StageConfig(epochs=1, head_rate=1e-3, backbone_rate=2e-3),
    )
    trained = train(config, tmp_path / "runs" / "first", reporter=Silent(), stop=Event()).run
    assert (trained.architecture("compact").rank, trained.architecture("compact").tail) == (12, "tanh")
    choices = ExportChoices(["int8"], Recipe(name="tiny", description="", photos=9, seed=0), accept_drop=True)
    result = export(trained, tmp_path / "bundle", choices=choices, reporter=Silent())
    assert result.models["int8"].audit.integer_only

    smaller = CompressChoices(pooling=toy, epochs=1, copies=1)
    compressed = compress(trained.path, ranks=[6], choices=smaller, reporter=Silent(), stop=Event())
    assert compressed.path.name == "first-toy-6"


def test_a_new_pooling_has_its_own_rules_of_rank_and_tail(toy: str) -> None:
    assert toy in heads.compact_names()
    with pytest.raises(ValueError, match="multiple of three"):
        TrainConfig(data="unused", pooling=toy, rank=4)
    with pytest.raises(TrainingError, match="takes no sqrt tail"):
        CompressChoices(pooling=toy, tail="sqrt").config(TrainConfig(data="unused"), 3)


@pytest.mark.parametrize("pooling", ["toys", "outer", "../heads/gap", ""])
def test_a_pooling_that_no_compact_model_can_have_is_refused_with_those_it_can(pooling: str) -> None:
    with pytest.raises(ValueError, match="choose one of gap, hadamard, "):
        TrainConfig(data="unused", pooling=pooling)


def test_names_and_rules_of_backbones_and_poolings_need_no_tensorflow() -> None:
    program = (
        "import sys; from edgebcnn.model import heads; from edgebcnn.model.backbones import BACKBONES\n"
        "from edgebcnn.train.config import TrainConfig\n"
        "[TrainConfig(data='x', pooling=name) for name in heads.compact_names()], BACKBONES\n"
        "sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
