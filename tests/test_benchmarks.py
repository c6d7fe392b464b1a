"""The benchmark programs run to their end in their smallest setting, and every figure of theirs is one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click import Command
from click.testing import CliRunner

from benchmarks import field, head_cost, int8_remedies, recipe, training_speed
from edgebcnn.model import heads
from edgebcnn.model.bcnn import Architecture
from tests.blocks import QUICK, draw_blocks

SMALL_TRAINING = (
    *("--streams", "small", "--frozen-through", "small_2_relu", "--train-px", "32"),
    *("--batch-size", "4", "--steps", "1", "--repeats", "2", "--copies", "2"),
)
SMALL_HEADS = ("--streams", "small", "--input-px", "64", "--classes", "5", "--rank", "16", "--rounds", "3")


def said(program: Command, *arguments: object) -> dict[str, Any]:
    """The JSON that a program prints."""
    result = CliRunner().invoke(program, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def numbers(document: Any) -> Iterator[float]:
    """Every number in a JSON document."""
    if isinstance(document, dict | list):
        for value in document.values() if isinstance(document, dict) else document:
            yield from numbers(value)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield document


@pytest.mark.slow
def test_training_from_the_cache_is_measured_against_keras_in_both_stages(tmp_path: Path) -> None:
    document = said(training_speed.main, "--data", draw_blocks(tmp_path, per_product={"train": 2}), *SMALL_TRAINING)
    assert [row["stage"] for row in document["stages"]] == ["head", "finetune"]
    for row in document["stages"]:
        assert set(row["photos_per_s"]) == {"cached", "plain"}
        assert row["ratio"]["lowest"] <= row["ratio"]["median"] <= row["ratio"]["highest"]
        assert all(0 < value < 1e6 for value in numbers(row))
    assert all(0 < value < 1e6 for value in numbers(document["cache_photos_per_s"]))
    assert 0 < document["both_stages_with_cache"] < 1e3


def test_the_cache_is_charged_to_whom_it_serves() -> None:
    rates = {"features": 10.0, "maps": 5.0, "head, cached": 100.0, "head, plain": 4.0}
    rates |= {"finetune, cached": 8.0, "finetune, plain": 2.0}
    document = training_speed.summary(
        {name: training_speed.Rates(np.full(3, rate)) for name, rate in rates.items()},
        copies=2,
        epochs={"head": 10, "finetune": 4},
    )
    head, finetune = document["stages"]
    assert head["with_cache"] == {
        "epochs": 10,
        "ratio": pytest.approx(10 / 4 / (2 * 0.3 + 0.1), abs=1e-3),
        "paid_after_epochs": pytest.approx(2 * 0.3 / (1 / 4 - 1 / 100), abs=0.1),
    }
    assert finetune["with_cache"]["ratio"] == pytest.approx(4 / 2 / (2 * 0.1 + 4 / 8), abs=1e-3)
    assert document["both_stages_with_cache"] == pytest.approx((2.5 + 2) / (2 * 0.3 + 0.1 + 0.5), abs=1e-3)


def test_a_backbone_that_freezes_nothing_is_refused_in_one_sentence(tmp_path: Path) -> None:
    data = draw_blocks(tmp_path, per_product={"train": 2})
    result = CliRunner().invoke(training_speed.main, ["--data", str(data), "--streams", "small"])
    assert result.exit_code == 1
    assert result.stderr.endswith("Error: small freezes no layers of its own: say --frozen-through LAYER\n")


@pytest.mark.slow
def test_every_head_is_measured_beside_its_backbone(tmp_path: Path) -> None:
    plot = tmp_path / "heads.png"
    document = said(head_cost.main, *SMALL_HEADS, "--plot", plot)
    names = [row["name"] for row in document["parts"]]
    assert names[0] == "backbone"
    assert {name.split()[0] for name in names[1:]} == set(heads.names())
    for row in document["parts"]:
        assert set(row["latency_ms"]) == set(row["share_of_backbone"]) == {"float32", "int8"}
        assert all(0 < value < 1e9 for value in numbers(row)), row
    assert [row["name"] for row in document["parts"] if not row["integer_only"]] == ["tensor_sketch 2048"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_recipe_is_measured_over_seeds_with_average_pooling_beside_it_and_goes_on(tmp_path: Path) -> None:
    data = draw_blocks(tmp_path / "data", per_product={"train": 12, "val": 4, "test": 6})
    places = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--seeds", "3"]
    for _ in range(2):
        result = CliRunner().invoke(recipe.main, [*places, "--", *QUICK])
        assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "runs/recipe.json").read_text())["runs"]
    assert row["seed"] == 3
    assert row["gap"]["head"] == 128 * 3 + 3 < row["compact"]["head"] < row["full"]["head"]
    assert all(row[name]["accuracy"]["n"] == 18 for name in recipe.MODELS)
    assert (tmp_path / "runs/recipe.png").read_bytes().startswith(b"\x89PNG")


def test_the_time_of_a_run_includes_what_was_stopped(tmp_path: Path) -> None:
    seconds = [recipe.seconds_of(tmp_path)]
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            recipe.typed(tmp_path, "no-such-command")
        seconds.append(recipe.seconds_of(tmp_path))
    assert 0 == seconds[0] < seconds[1] < seconds[2]


def test_multiply_adds_are_those_of_a_hand_count() -> None:
    def cost(pooling: Any, rank: int | None = None) -> int:
        of_head = Architecture(
            streams="small", pooling=pooling, rank=rank, tail=heads.find(pooling).tails[0], classes=3, class_rank=2
        )
        return head_cost.multiply_adds(of_head, locations=4, channels=[8])

    assert cost("gap") == 8 * 3
    assert cost("outer") == 4 * 8 * 8 + 64 * 3
    assert cost("hadamard", 16) == cost("maclaurin", 16) == 2 * (4 * 8 * 16) + 4 * 16 + 16 * 3
    assert cost("projected", 5) == 2 * (4 * 8 * 5) + 4 * 25 + 25 * 3
    assert cost("quadratic", 16) == 4 * 8 * 16 + 4 * 16 + 16 * 3
    assert cost("lrbc", 5) == 4 * 8 * 5 + 4 * 5 * 6 + 4 * 6 + 6 * 3
    assert cost("tensor_sketch", 16) == 2 * (4 * 8 * 16) + 2 * 4 * 64 + 2 * 4 * 16 + 2 * 64 + 16 * 3


@pytest.mark.slow
def test_every_remedy_of_int8_is_measured_on_the_photos_of_a_run(shop: Path) -> None:
    document: Any = said(int8_remedies.main, shop / "runs" / "latest", "--qat-epochs", 1)
    rows: dict[str, Any] = {row["name"]: row for row in document}
    assert len(rows) == 3 + len(int8_remedies.WAYS) + len(int8_remedies.FINE_TUNED)
    assert (
        rows["float32"]["agreement"]["successes"] == rows["float32"]["agreement"]["n"] == rows["mse"]["accuracy"]["n"]
    )
    assert rows["float32"]["distance"] == 0
    assert rows["float32, equalized"]["distance"] < 0.05
    assert all(0 < row["distance"] < 0.2 for name, row in rows.items() if not name.startswith("float32"))


@pytest.mark.slow
def test_an_audit_is_held_against_every_frame_of_a_field_that_drifts(shop: Path) -> None:
    models = (shop / "runs" / "latest" / "bundle", "--full", shop / "runs" / "latest")
    size = ("--passes", "2", "--draws", "2", "--share", "0.5")
    document: Any = said(field.main, *models, *size)
    audit = document["audit"]
    assert (document["photos"], audit["frames"]) == (36, 72)
    assert 18 < audit["kept"] < 54
    assert audit["agreement"]["low"] <= audit["agreement"]["value"] <= audit["agreement"]["high"]
    assert [row["frames"] for row in document["drawn"]] == [72 * days for days in field.DAYS]
    for row in document["drawn"]:
        assert row["kept"] == pytest.approx(row["frames"] / 2, rel=0.3)
        assert 0 <= row["suffered"]["named"] <= row["suspected"]["named"] <= 3
