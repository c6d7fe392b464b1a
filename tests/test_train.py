"""`edgebcnn train` from the outside: a run folder, refusals, Ctrl-C, and a kill at any moment."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import click
import pytest
from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.cli.flags.sections import config_key
from edgebcnn.cli.train import _config, command
from edgebcnn.errors import Interrupted, RunError
from edgebcnn.progress import Silent
from edgebcnn.train.claim import locked
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.run_folder import open_run, read_record, write_record
from edgebcnn.train.steps import resume
from tests.blocks import QUICK, draw_blocks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_blocks(tmp_path_factory.mktemp("blocks") / "data", per_product={"train": 24, "val": 8, "test": 12})


@pytest.fixture(scope="module")
def told(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody disturbed, and what was printed."""
    runs = tmp_path_factory.mktemp("finished") / "my runs"
    result = edgebcnn("train", "--data", data, "--runs", runs, "--name", "quiet", *QUICK)
    assert result.exit_code == 0, result.stderr
    return runs / "quiet", result.stdout


def test_training_reports_each_epoch_and_where_tensorboard_looks(data: Path, tmp_path: Path) -> None:
    result = edgebcnn("train", "--data", data, "--runs", tmp_path, "--name", "told", *QUICK, "--epochs", 1)
    printed = " ".join(result.stderr.split())
    assert f"tensorboard --logdir {tmp_path}/told/tensorboard" in printed
    assert re.search(
        r"full model, finetune: epoch 1 of 1, loss [\d.]+, validation accuracy [\d.]+ %; .* left in the run", printed
    )


@pytest.fixture(scope="module")
def finished(told: tuple[Path, str]) -> Path:
    """The folder of that run."""
    return told[0]


@pytest.fixture
def interrupted(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, as if it had been stopped at its end."""
    run = tmp_path / "runs" / "interrupted"
    shutil.copytree(finished, run)
    write_record(run, read_record(run).model_copy(update={"state": "interrupted"}))
    return run


def edgebcnn(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgebcnn", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_leaves_everything_that_its_folder_promises(finished: Path) -> None:
    record = read_record(finished)
    assert record.state == "finished"
    assert record.done == ("full/finetune", "compact/factorized", "compact/head", "compact/finetune")
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((finished / "tensorboard").rglob("events.*"))) == 3
    assert not (finished / "cache").exists()
    assert not list(finished.rglob("*.npz"))
    assert (finished.parent / "latest").resolve() == finished
    with (finished / "history.csv").open(newline="") as lines:
        epochs = [(row["role"], row["stage"], row["epoch"]) for row in csv.DictReader(lines)]
    assert epochs[:4] == [("full", "finetune", str(epoch)) for epoch in range(1, 5)]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["photos"] == "test"
    # Three colours and 36 photos: chance is 12, and a network that learned anything is far above twice that.
    assert all(model["accuracy"]["successes"] >= 26 for model in metrics["models"])


def test_the_models_of_a_finished_run_are_the_ones_that_were_measured(finished: Path) -> None:
    run = open_run(finished)
    assert run.load("compact").head.count_params() < run.load("full").head.count_params()
    assert [label.name for label in run.dataset.labels] == ["Blue", "Green", "Red"]


def test_the_next_command_can_be_typed_whatever_the_run_is_called(told: tuple[Path, str]) -> None:
    run, printed = told
    words = shlex.split(printed.splitlines()[-1].removeprefix("next:"))
    assert words == ["edgebcnn", "export", str(run), "--int8"]


def test_a_run_name_is_not_used_twice(data: Path, finished: Path) -> None:
    result = edgebcnn("train", "--data", data, "--runs", finished.parent, "--name", finished.name, *QUICK)
    assert result.exit_code == 4
    assert "exists: choose another --name" in result.stderr


def test_a_finished_run_is_not_resumed(finished: Path) -> None:
    result = edgebcnn("train", "--resume", "--runs", finished.parent)
    assert result.exit_code == 4
    assert result.stderr.endswith("is finished: export it, or train another\n")


def test_resuming_nothing_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = edgebcnn("train", "--resume", "--runs", tmp_path)
    assert result.exit_code == 4
    assert "is not a run" in result.stderr
    assert not list(tmp_path.iterdir())


def test_resume_refuses_other_choices(tmp_path: Path) -> None:
    result = edgebcnn("train", "--resume", "--runs", tmp_path, "--rank", "64")
    assert result.exit_code == 2
    assert "omit --rank" in result.stderr


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--train-px", "200", "--train-px 200: input should be a multiple of 32"),
        ("--config", "optimization.warmup = 1.5", "optimization.warmup: input should be less than 1"),
        ("--config", "training.patience = 0", "training.patience: input should be greater than or equal to 1"),
        ("--config", "augmentation.min_area = 2", "augmentation.min_area: input should be less than or equal to 1"),
        ("--config", "model.class_rank = 3", "model.class_rank: input should be a multiple of 2"),
        (
            "--config",
            "distillation.pooled_weight = 1",
            "distillation.pooled_weight does nothing without epochs on frozen features: give --head-epochs",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_is_named_with_its_flag(flag: str, value: str, says: str, data: Path) -> None:
    result = edgebcnn("train", "--data", data, flag, value)
    assert result.exit_code == 2
    assert says in result.stderr


def _number_keys() -> list[str]:
    command = main.get_command(click.Context(main), "train")
    assert command is not None
    return [
        config_key(parameter) for parameter in command.params if isinstance(parameter.type, click.types.FloatParamType)
    ]


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("key", _number_keys())
def test_what_is_not_a_finite_number_is_named_with_its_key(key: str, value: str, tmp_path: Path) -> None:
    result = edgebcnn("train", "--data", tmp_path, "--config", f"{key} = {value}")
    assert result.exit_code == 2
    assert f"{key} = {value}: input should be" in result.stderr


@pytest.mark.parametrize("name", ["a/b", "/a", ".x", "..", "", "a" * 300, "ä" * 150])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path) -> None:
    result = edgebcnn("train", "--data", tmp_path, "--runs", tmp_path / "runs", "--name", name)
    assert result.exit_code == 2
    assert "cannot name a folder" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [("--weights", "none"), ("--head-epochs", "0")])
def test_training_nothing_is_refused(flags: tuple[str, ...], tmp_path: Path) -> None:
    result = edgebcnn("train", "--data", tmp_path, "--epochs", "0", *flags)
    assert result.exit_code == 2
    assert "--epochs 0 leaves nothing to train: give 1 or more" in result.stderr


@pytest.mark.slow
def test_a_last_fit_learns_from_val_too_and_is_judged_by_test_alone(data: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", data, "--runs", tmp_path, "--name", "last", *QUICK, "--fit-on", "train+val")
    result = edgebcnn(*arguments, "--config", "optimization.averaging = 0.9", "--json")
    assert result.exit_code == 0, result.stderr
    run = open_run(tmp_path / "last")
    assert (len(run.dataset.train), len(run.dataset.val), len(run.dataset.test)) == (96, 0, 36)
    with (run.path / "history.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 4 + 2 + 4, "every epoch runs"
    assert {row["val_loss"] for row in rows} == {"nan"}
    assert json.loads(result.stdout)["models"][1]["accuracy"]["successes"] >= 30  # of 36; chance is 12
    assert edgebcnn("export", run.path, "--int8").exit_code == 0


def test_a_last_fit_that_nothing_could_judge_is_refused(tmp_path: Path) -> None:
    data = draw_blocks(tmp_path / "data", per_product={"train": 8, "val": 4})
    result = edgebcnn("train", "--data", data, "--runs", tmp_path / "runs", *QUICK, "--fit-on", "train+val")
    assert result.exit_code == 3
    assert "has no test photos" in result.stderr
    assert "leave out --fit-on" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_in_mixed_precision_learns_and_is_kept_and_measured_in_float32(data: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", data, "--runs", tmp_path, "--name", "mixed", *QUICK, "--mixed-precision")
    result = edgebcnn(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    accuracy = json.loads(result.stdout)["models"][1]["accuracy"]
    assert accuracy["successes"] >= 30  # of 36; chance is 12
    compact = open_run(tmp_path / "mixed").load("compact")
    assert {layer.compute_dtype for layer in compact.model.layers} == {"float32"}
    judged = json.loads(edgebcnn("evaluate", tmp_path / "mixed", "--json").stdout)
    assert judged["top1"] == accuracy


def test_every_default_of_the_command_is_that_of_the_library() -> None:
    assert _config(command.make_context("train", [])) == TrainConfig(data="data")


def test_the_compact_model_is_fine_tuned_as_long_as_the_full_one_unless_it_is_said() -> None:
    for flags, expected in (([], 7), (["--compact-epochs", "3"], 3)):
        config = _config(command.make_context("train", ["--epochs", "7", *flags]))
        assert (config.full_finetune.epochs, config.compact_finetune.epochs) == (7, expected)


def test_an_unwritable_folder_of_runs_is_refused_before_the_photos_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = edgebcnn("train", "--data", tmp_path / "nowhere", "--runs", tmp_path / "file" / "runs", *QUICK)
    assert result.exit_code == 9
    assert f"{tmp_path}/file/runs" in result.stderr
    assert "choose a path that you can write" in result.stderr


def test_two_choices_that_do_not_go_together_are_both_named(data: Path) -> None:
    result = edgebcnn("train", "--data", data, "--pooling", "lrbc", "--config", "model.tail = 'sqrt'")
    assert result.exit_code == 2
    assert "lrbc pooling takes no sqrt tail: leave it out" in result.stderr


def test_a_rank_too_large_is_refused_before_the_full_model_is_trained(data: Path, tmp_path: Path) -> None:
    result = edgebcnn(
        "train", "--data", data, "--runs", tmp_path / "runs", *QUICK, "--pooling", "lrbc", "--rank", "200"
    )
    assert result.exit_code == 11
    assert "lrbc pooling of the 128 channels of small takes at most 128" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_data_folder_leaves_no_run(tmp_path: Path) -> None:
    result = edgebcnn("train", "--data", tmp_path / "nowhere", "--runs", tmp_path / "runs", *QUICK)
    assert result.exit_code == 3
    assert "nowhere is not a folder" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_version_is_refused(finished: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    record = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(RunError, match=r"run\.json has schema version 99, this edgebcnn reads 2"):
        open_run(old)


def test_a_run_record_changed_by_hand_is_refused_with_its_field(finished: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(finished, changed)
    record = json.loads((changed / "run.json").read_text())
    record["config"]["rank"] = "many"
    (changed / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"field config\.rank"):
        open_run(changed)


def test_photos_that_vanished_since_the_stop_are_named(interrupted: Path, tmp_path: Path) -> None:
    table = interrupted / "photos.csv"
    table.write_text(table.read_text() + f"test,0,{tmp_path}/gone.png\n")
    result = edgebcnn("train", "--resume", "--runs", interrupted.parent, "--name", interrupted.name)
    assert result.exit_code == 3
    assert (
        f"1 of the 133 photos of {interrupted} are no longer there, the first is {tmp_path}/gone.png" in result.stderr
    )


def test_weights_that_vanished_since_the_stop_are_named(interrupted: Path) -> None:
    (interrupted / "full" / "weights.h5").unlink()
    with pytest.raises(RunError, match=r"full/weights\.h5 is missing: put it back, or train again"):
        resume(interrupted, reporter=Silent(), stop=Event())


def test_two_processes_do_not_train_in_one_folder(finished: Path) -> None:
    with locked(finished), pytest.raises(RunError, match="another edgebcnn train is working in"):
        resume(finished, reporter=Silent(), stop=Event())


def stopped(number: signal.Signals, data: object, runs: Path) -> str:
    """What training said that got a signal in its first epochs; its run is called `stopped`."""
    process = started("train", "--data", data, "--runs", runs, "--name", "stopped", *QUICK)
    while process.poll() is None and not (runs / "stopped" / "history.csv").exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, says = process.communicate(timeout=120)
    assert process.returncode == Interrupted.exit_code, says
    return says


def test_sigterm_keeps_what_was_reached_as_ctrl_c_does(data: Path, tmp_path: Path) -> None:
    says = stopped(signal.SIGTERM, data, tmp_path)
    assert "stopped after full/finetune, epoch" in says
    assert "Traceback" not in says
    assert read_record(tmp_path / "stopped").state == "interrupted"
    assert (tmp_path / "stopped" / "full" / "weights.h5").exists()


def test_stopping_keeps_what_was_reached_and_resuming_finishes_from_any_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    history = runs / "stopped" / "history.csv"
    says = stopped(signal.SIGINT, os.path.relpath(data), runs)
    monkeypatch.chdir(tmp_path)
    assert "stopped after full/finetune, epoch" in says
    assert "--resume" in says
    assert "Traceback" not in says
    assert (runs / "stopped" / "full" / "weights.h5").exists()
    assert (runs / "stopped" / "curves.png").exists()
    assert read_record(runs / "stopped").state == "interrupted"
    epochs_before = history.read_text().splitlines()[1:]
    assert edgebcnn("train", "--resume", "--runs", runs).exit_code == 0
    assert history.read_text().splitlines()[1 : 1 + len(epochs_before)] == epochs_before


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_that_diverged_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    wild = [
        *("--config", "training.full_head_rate = 1e30", "--config", "training.backbone_rate = 1e30"),
        *("--config", "optimization.clip_norm = 1e30"),
    ]
    result = edgebcnn("train", "--data", data, "--runs", runs, "--name", "wild", *QUICK, *wild)
    assert result.exit_code == 11
    assert "lower the learning rates and start again" in result.stderr
    for again in (["train", "--resume", "--runs", runs, "--name", "wild"], ["export", runs / "wild", "--int8"]):
        refused = edgebcnn(*again)
        assert refused.exit_code == 4
        assert "diverged, and would again: train another with lower learning rates" in refused.stderr


@pytest.mark.slow
def test_a_run_killed_at_three_random_moments_ends_finished(data: Path, tmp_path: Path) -> None:
    runs, moments = tmp_path / "runs", random.Random(5)
    history = runs / "killed" / "history.csv"
    # More epochs, even on a fast machine, than the three lives below have time for.
    long = [*QUICK, "--epochs", "100", "--head-epochs", "30", "--config", "training.patience = 1000"]
    arguments: tuple[object, ...] = ("train", "--data", data, "--runs", runs, "--name", "killed", *long)
    for rows, within_s in ((0, 4), (10, 1), (70, 1)):  # at the start, and in a stage
        process = started(*arguments)
        while process.poll() is None and rows > (len(history.read_text().splitlines()) if history.exists() else 0):
            time.sleep(0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, within_s))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if (runs / "killed" / "run.json").exists():
            arguments = ("train", "--resume", "--runs", runs, "--name", "killed")
    result = edgebcnn(*arguments)
    assert result.exit_code == 0, result.stderr
    assert open_run(runs / "killed").state == "finished"
    assert not list((runs / "killed").rglob("*.part*"))
    with (runs / "killed" / "history.csv").open(newline="") as lines:
        epochs = [(row["role"], row["stage"], int(row["epoch"])) for row in csv.DictReader(lines)]
    stages = (("full", "finetune", 100), ("compact", "head", 30), ("compact", "finetune", 100))
    assert epochs == [(role, stage, epoch) for role, stage, count in stages for epoch in range(1, count + 1)]
