"""`edgebcnn compress` from the outside: runs that every command takes, a table and a plot of ranks, and refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebcnn.cli.compress import _choices, command
from edgebcnn.errors import Interrupted
from edgebcnn.train.compress import CompressChoices
from edgebcnn.train.run_folder import open_run, read_record
from tests.blocks import QUICK, draw_blocks
from tests.typing_in import typed

FAST = ("--config", "photos.copies = 2", "--distil-epochs", "2")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run `runs/a`; every test of this file makes runs of its own beside it."""
    folder = tmp_path_factory.mktemp("compress")
    draw_blocks(folder / "data", per_product={"train": 24, "val": 8, "test": 12})
    result = typed(folder, "train", *QUICK, "--name", "a")
    assert result.exit_code == 0, result.stderr
    return folder


def weights(run: Path, role: str) -> bytes:
    return (run / role / "weights.h5").read_bytes()


def test_the_new_run_stands_beside_the_old_one_and_every_command_takes_it(shop: Path) -> None:
    before = {file: file.read_bytes() for file in (shop / "runs/a").rglob("*") if file.is_file()}
    result = typed(shop, "compress", "runs/a", "--rank", 8, *FAST)
    assert result.exit_code == 0, result.stderr
    made = shop / "runs/a-hadamard-8"
    assert f"next:   edgebcnn export {made} --int8" in result.stdout
    assert before == {file: file.read_bytes() for file in (shop / "runs/a").rglob("*") if file.is_file()}
    assert weights(made, "full") == weights(shop / "runs/a", "full")
    assert read_record(made).done == (
        *("full/head", "full/finetune"),
        *("compact/factorized", "compact/head", "compact/finetune"),
    )
    assert not (made / "cache").exists()
    assert (shop / "runs/latest").resolve() == made
    assert open_run(made).load("compact").architecture.tail == "l2"
    judged = json.loads(typed(shop, "evaluate", made, "--json").stdout)
    metrics = json.loads((made / "metrics.json").read_text())
    assert [model["name"] for model in metrics["models"]] == ["full", "factorized", "compact"]
    assert judged["top1"] == metrics["models"][2]["accuracy"], "the run's model is the one that was measured"
    assert typed(shop, "export", made, "--int8").exit_code == 0
    assert typed(shop, "run", "--bundle", made / "bundle", "--camera", "data/test/Red", "--json").exit_code == 0


def test_what_is_finished_is_kept_when_the_same_is_typed_again_also_of_the_latest_run(shop: Path) -> None:
    typed(shop, "compress", "runs/a", "--rank", 5, *FAST)
    made = shop / "runs/a-hadamard-5"
    written = (made / "compact/weights.h5").stat().st_mtime_ns
    again = typed(shop, "compress", "--rank", 5, *FAST)
    assert again.exit_code == 0, again.stderr
    assert f"run:    {made}" in again.stdout
    assert (made / "compact/weights.h5").stat().st_mtime_ns == written


def test_zero_epochs_leave_the_factorization_as_it_is(shop: Path) -> None:
    result = typed(
        shop, "compress", "runs/a", "--rank", 6, "--distil-epochs", 0, "--config", "photos.copies = 1", "--json"
    )
    said = json.loads(result.stdout)["ranks"][0]
    assert said["factorized"] == said["distilled"]
    made = shop / "runs/a-hadamard-6/compact"
    assert (made / "factorized.h5").read_bytes() == (made / "weights.h5").read_bytes()
    assert said["factorized"]["agreement"]["successes"] >= 30  # of 36; chance is 12


@pytest.mark.slow
def test_several_ranks_become_a_folder_of_runs_with_a_table_and_a_plot(shop: Path) -> None:
    result = typed(shop, "compress", "runs/a", "--rank", "4,16", "--to", "lrbc", *FAST)
    assert result.exit_code == 0, result.stderr
    folder = shop / "runs/a-lrbc"
    assert sorted(path.name for path in folder.iterdir()) == ["16", "4", "ranks.json", "ranks.png"]
    assert (folder / "ranks.png").read_bytes().startswith(b"\x89PNG")
    said = json.loads((folder / "ranks.json").read_text())
    assert [each["rank"] for each in said["ranks"]] == [4, 16]
    small, large = (each["distilled"] for each in said["ranks"])
    assert small["head_parameters"] < large["head_parameters"] < said["full"]["head_parameters"]
    assert all(model["head_latency_ms"] > 0 for model in (small, large, said["full"]))
    assert said["full"]["agreement"] is None
    assert large["agreement"]["n"] == large["accuracy"]["n"] == 36
    assert "agreement with the full model" in result.stdout
    assert result.stderr.count("maps-finetuned, train") >= 1
    assert open_run(folder / "16").load("compact").architecture.rank == 16


def test_average_pooling_has_no_rank_and_nothing_to_factorize_but_learns_what_the_full_model_says(shop: Path) -> None:
    result = typed(
        shop,
        "compress",
        "runs/a",
        "--to",
        "gap",
        "--distil-epochs",
        20,
        "--config",
        "distillation.head_rate = 0.03",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)["ranks"][0]
    assert (said["rank"], said["run"]) == (None, str(shop / "runs/a-gap"))
    assert said["distilled"]["head_parameters"] == 128 * 3 + 3
    assert said["distilled"]["agreement"]["successes"] >= 30  # of 36; chance is 12


@pytest.mark.slow
def test_head_and_backbone_are_fine_tuned_together_if_asked(shop: Path) -> None:
    result = typed(
        shop,
        "compress",
        "runs/a",
        "--rank",
        8,
        "--name",
        "tuned",
        *FAST,
        "--finetune-epochs",
        1,
        "--config",
        "distillation.pooled_weight = 1",
    )
    assert result.exit_code == 0, result.stderr
    assert open_run(shop / "runs/tuned").config.pooled_weight == 1
    stages = [line.split(",")[1] for line in (shop / "runs/tuned/history.csv").read_text().splitlines()[1:]]
    assert stages == ["head", "head", "finetune"]


@pytest.mark.slow
def test_unlabelled_photos_are_learned_from_and_those_it_is_judged_on_are_left_out(shop: Path) -> None:
    more = draw_blocks(shop / "more", per_product={"any": 5})
    shutil.copytree(shop / "data/test", more / "linked", copy_function=lambda a, b: Path(b).symlink_to(a))
    result = typed(shop, "compress", "runs/a", "--rank", 8, "--name", "taught", *FAST, "--unlabelled", more)
    assert result.exit_code == 0, result.stderr
    assert "left out 36 photos" in result.stderr
    run = open_run(shop / "runs/taught")
    assert len(run.dataset.unlabelled) == 15
    assert len(run.dataset.train) == 72


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--rank", "20000"], 11, "a rank of 20000 is too large"),
        (["--rank", "16000"], 11, "a rank of 16000 is too large: its hadamard head would have 4,144,003 parameters"),
        (["--rank", "300", "--to", "lrbc"], 11, "lrbc pooling of the 128 channels of small takes at most 128"),
        (["--rank", "100", "--to", "tensor_sketch"], 11, "a rank that is a power of two"),
        (["--to", "gap", "--rank", "8"], 11, "gap pooling has no rank: leave it out"),
        (["--to", "lrbc", "--config", "compact_model.tail = 'l2'"], 11, "lrbc pooling takes no l2 tail: leave it out"),
        (["--rank", "8,x"], 2, "'8,x' is not a rank, or several as in 64,128,256"),
        (["--rank", "0"], 2, "'0' is not a rank"),
        (["--distil-epochs", "-1"], 2, "--distil-epochs -1: input should be greater than or equal to 0"),
        (["--config", "compact_model.class_rank = 3"], 2, "compact_model.class_rank: input should be a multiple of 2"),
        (
            ["--config", "distillation.pooled_weight = 1", "--distil-epochs", "0"],
            2,
            "distillation.pooled_weight: the feature-similarity loss needs epochs",
        ),
        (["--name", "a/b"], 2, "cannot name a folder"),
        (
            ["--rank", "8", "--name", "a"],
            4,
            "runs/a exists with other options",
        ),
        (["--rank", "8", "--name", "latest"], 4, "exists with other options"),
        (["--rank", "4,8", "--name", "a"], 4, "runs/a is a run and cannot hold several"),
        (["--rank", "8", "--unlabelled", "nowhere"], 3, "nowhere is not a folder"),
        (["--rank", "8", "--unlabelled", "data/test"], 3, "holds no photo to learn from"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments: list[str], exit_code: int, says: str, shop: Path
) -> None:
    before = sorted((shop / "runs").iterdir())
    result = typed(shop, "compress", "runs/a", *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.stderr
    assert says in result.stderr
    assert sorted((shop / "runs").iterdir()) == before


def test_every_default_of_the_command_is_that_of_the_library() -> None:
    assert _choices(command.make_context("compress", [])) == CompressChoices()


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    result = typed(tmp_path, "compress", "nowhere")
    assert result.exit_code == 4
    assert "nowhere is not a run" in result.stderr


@pytest.mark.slow
def test_what_was_stopped_goes_on_when_the_same_is_typed_again(shop: Path) -> None:
    arguments = [
        "compress",
        str(shop / "runs/a"),
        "--rank",
        "8",
        "--name",
        "stopped",
        *("--config", "photos.copies = 2", "--distil-epochs", "3000"),
    ]
    command = [sys.executable, "-m", "edgebcnn", *arguments, "--config", "distillation.patience = 3000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = shop / "runs/stopped/history.csv"
    while process.poll() is None and not history.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, says = process.communicate(timeout=120)
    assert process.returncode == Interrupted.exit_code, says
    assert "run the same command again" in says
    assert read_record(shop / "runs/stopped").state == "interrupted"
    changed = typed(shop, *arguments)
    assert changed.exit_code == 4, "another patience is another run"
    epochs_before = history.read_text().splitlines()[1:]
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while again.poll() is None and len(history.read_text().splitlines()) < len(epochs_before) + 3:
        time.sleep(0.05)
    again.send_signal(signal.SIGTERM)
    _, says = again.communicate(timeout=120)
    assert again.returncode == Interrupted.exit_code, says
    assert history.read_text().splitlines()[1 : 1 + len(epochs_before)] == epochs_before
