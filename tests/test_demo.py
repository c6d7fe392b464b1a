"""The demo's story, short: it draws, trains, exports, runs the loop, and its figures fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgebcnn.cli import main
from edgebcnn.demo import story
from edgebcnn.demo.products import PRODUCTS
from edgebcnn.demo.shelf import ShelfSizes


@pytest.fixture
def short_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shelf of few photos and stages of one epoch: too little to learn from, enough to go all the way."""
    full_config = story.config

    def short_config(data: Path, *, seed: int) -> object:
        config = full_config(data, seed=seed)
        stages = {name: getattr(config, name).model_copy(update={"epochs": 1}) for name in type(config).model_fields
                  if name.startswith(("full_", "compact_"))}  # fmt: skip
        return config.model_copy(update={**stages, "copies": 1, "rank": 32})

    monkeypatch.setattr(story, "SIZES", ShelfSizes(train=6, val=2, test=2))
    monkeypatch.setattr(story, "SECONDS_PER_PRODUCT", 0.2)
    monkeypatch.setattr(story, "config", short_config)


@pytest.mark.usefixtures("short_story")
def test_the_demo_goes_all_the_way_and_its_figures_fit_together(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--output", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    exported = told["export"]["models"]["int8"]
    assert exported["n"] == 2 * len(PRODUCTS)
    assert [model["name"] for model in exported["models"]] == ["full", "compact", "edge"]
    assert exported["float_ops"] == []
    video = told["video"]
    assert video["classified"] == video["seen"] == 3 * len(PRODUCTS)
    assert video["accuracy"]["n"] == video["classified"]
    assert Path(told["export"]["bundle"], "bundle.json").is_file()
    assert json.loads((tmp_path / "demo" / story.RESULT_NAME).read_text()) == told


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_edge_model_of_the_real_demo_is_right_on_nine_photos_of_ten(demo: Path) -> None:
    told = json.loads((demo / story.RESULT_NAME).read_text())
    accuracy = {model["name"]: model["accuracy"]["value"] for model in told["export"]["models"]["int8"]["models"]}
    assert accuracy["edge"] >= 0.9
    assert told["video"]["accuracy"]["value"] >= 0.9
    assert told["peak_memory_bytes"] < 3e9
