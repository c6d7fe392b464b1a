"""`--config` and `edgebcnn config`: strict files whose mistakes name the line, and choices that can be given again."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.cli.config import CONFIGURED
from edgebcnn.cli.flags.config import MAX_BYTES, MAX_LINES, given_by_user
from edgebcnn.cli.flags.sections import OTHER, Setting, configurable, heading_of
from edgebcnn.cli.flags.toml_text import commented, resolved
from edgebcnn.cli.train import _config
from edgebcnn.errors import ConfigError, StorageError
from edgebcnn.train.config import TrainConfig
from tests.test_cli import _commands
from tests.tiny_bundle import make_tiny_bundle, write_photos
from tests.typing_in import keys, typed

MAX_FLAGS = 30  # more than a screen is not read
MAX_FLAGS_WITHOUT_SECTIONS = 8


def command_of(name: str) -> click.Command:
    command = import_module(f"edgebcnn.cli.{name}").command
    assert isinstance(command, click.Command)
    return command


def parsed(name: str, *arguments: str) -> click.Context:
    return command_of(name).make_context(name, [*arguments])


def flags_of(command: click.Command) -> list[click.Option]:
    parameters = command.get_params(click.Context(command))
    return [each for each in parameters if isinstance(each, click.Option) and not isinstance(each, Setting)]


def refused(file: Path, text: str | bytes, name: str = "train") -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = typed(file.parent, name, "--config", file.name)
    assert (result.exit_code, result.stdout) == (ConfigError.exit_code, ""), result.output
    assert result.stderr.count("\n") == 1, "one sentence"
    return result.stderr


@pytest.mark.parametrize("name", ["train", "run"])
def test_the_help_of_a_command_with_many_choices_has_thirty_flags_at_most(name: str) -> None:
    assert len(flags_of(command_of(name))) <= MAX_FLAGS


def test_a_command_with_more_than_eight_flags_lists_all_of_them_in_sections() -> None:
    for name, command in _commands():
        flags = flags_of(command)
        if len(flags) - 1 > MAX_FLAGS_WITHOUT_SECTIONS:  # --help has none
            assert [max(flag.opts, key=len) for flag in flags if heading_of(flag) == OTHER] == ["--help"], name


def test_a_flag_has_one_default_in_all_commands() -> None:
    defaults: dict[str, set[str]] = defaultdict(set)
    for name, command in _commands():
        context = command.make_context(name, [], resilient_parsing=True)
        for flag in flags_of(command):
            value = context.params.get(str(flag.name))
            if value not in (None, (), False):
                defaults[flag.opts[0]].add(str(value))
    assert {flag: values for flag, values in defaults.items() if len(values) > 1} == {}


def test_a_bundle_is_given_by_a_flag_in_all_commands() -> None:
    arguments = {each.name for _, command in _commands() for each in command.params if isinstance(each, click.Argument)}
    assert "bundle" not in arguments
    takes = {name for name, command in _commands() if any("--bundle" in flag.opts for flag in flags_of(command))}
    assert takes >= {f"edgebcnn {name}" for name in ("run", "check", "benchmark", "layers", "pack", "slots", "audit")}


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_written_file_has_every_key_and_changes_nothing_when_it_is_read(name: str, tmp_path: Path) -> None:
    assert typed(tmp_path, "config", "init", name, "--output", "all.toml").exit_code == 0
    text = (tmp_path / "all.toml").read_text()
    for table, parameters in configurable(command_of(name)).items():
        assert f"[{table}]" in text
        assert all(f"\n{key} = " in text or f"\n# {key} =" in text for key in parameters)
    context = parsed(name, "--config", str(tmp_path / "all.toml"))
    assert context.params == parsed(name).params
    assert given_by_user(context) == set()


def test_a_configuration_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run]\n")
    result = typed(tmp_path, "config", "init", "train", "--output", "mine.toml")
    assert result.exit_code == StorageError.exit_code
    assert "mine.toml exists already" in result.stderr
    assert (tmp_path / "mine.toml").read_text() == "[run]\n"


def test_a_flag_wins_over_a_file_and_a_later_file_over_an_earlier(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[training]\nepochs = 3\ncopies = 2\n[augmentation]\nflip = true\n")
    (tmp_path / "b.toml").write_text("[training]\ncopies = 5\n")
    files = ("--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.toml"))
    config = _config(parsed("train", "--epochs", "4", *files, "--config", "augmentation.color_cast = 0.5"))
    assert (config.full_finetune.epochs, config.copies) == (4, 5)
    assert (config.augmentation.flip, config.augmentation.cast) == (True, 0.5)


def test_the_environment_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBCNN_WEB_TOKEN", "of-the-environment")
    context = parsed("run", *keys(screen__web_token="of-the-file"))
    assert context.params["web_token"] == "of-the-environment"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (
            "[augmentation]\nflip = true\nbrightnes = 0.1\n",
            "line 3: [augmentation] has no key brightnes, did you mean b",
        ),
        ("\n[augmentatio]\n", "line 2: there is no table [augmentatio], did you mean augmentation?"),
        ("[model]\nepochs = 3\n", "line 2: epochs belongs into the table [training]"),
        ("epochs = 3\n", "line 1: epochs belongs into the table [training]"),
        ("[training]\n\nepochs = '3'\n", "line 3: training.epochs = '3': input should be a valid integer"),
        ("[augmentation]\nflip = 1\n", "line 2: augmentation.flip = 1: input should be a valid boolean"),
        ("[training]\nepochs = 3.5\n", "line 2: training.epochs = 3.5"),
        ("[model]\npooling = 'outer'\n", "line 2: model.pooling = 'outer': input should be '"),
        ("[model]\n\ntrain_px = 33\n", "line 3: model.train_px: input should be a multiple of 32"),
        ("[augmentation]\nblur_px = nan\n", "line 2: augmentation.blur_px = nan: input should be a finite number"),
        ("[training\n", "is not TOML"),
        ("training = 3\n", "line 1: training"),
        (b"[training]\n# \xff\n", "is not UTF-8 at byte 13"),
        ("[[" * 20000, "wrong.toml"),
        ("#" * (MAX_BYTES + 1), "larger than 64 KiB"),
        ("\n" * (MAX_LINES + 1), "more than 2000 lines"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_place(text: str | bytes, fact: str, tmp_path: Path) -> None:
    sentence = refused(tmp_path / "wrong.toml", text)
    assert "wrong.toml" in sentence
    assert fact in sentence


def test_a_value_of_run_is_as_strict_as_its_flag(tmp_path: Path) -> None:
    assert "line 2: source.size: " in refused(tmp_path / "run.toml", "[source]\nsize = '12 by 9'\n", "run")
    assert "line 2: events.spool_mb = 0: " in refused(tmp_path / "run.toml", "[events]\nspool_mb = 0\n", "run")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = typed(tmp_path, "train", "--config", "gone.toml")
    assert result.exit_code == ConfigError.exit_code
    assert "gone.toml cannot be read" in result.stderr


def test_a_flag_that_became_a_key_is_told_where_to_go() -> None:
    for flag in ("--optimizer", "--optimiser"):
        result = CliRunner().invoke(main, ["train", flag, "sgd"])
        assert result.exit_code == 2
        assert "optimization.optimizer" in result.stderr


def test_an_unknown_command_or_flag_names_the_closest() -> None:
    assert "did you mean train?" in CliRunner().invoke(main, ["trian"]).stderr
    assert "--camera" in CliRunner().invoke(main, ["run", "--camra", "0"]).stderr


def test_resuming_refuses_a_configuration(tmp_path: Path) -> None:
    result = typed(tmp_path, "train", "--resume", *keys(run__seed=1))
    assert result.exit_code == 2
    assert "omit --config" in result.stderr


def again(name: str, context: click.Context, folder: Path, **overrides: Any) -> dict[str, Any]:
    """Parameters of the command with what it resolved before, typed in another folder."""
    file = folder / "again.toml"
    file.write_text(resolved(context, overrides))
    return parsed(name, "--config", str(file)).params


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["--data", "d", "--rank", "32", "--separate-weights", *keys(augmentation__flip=True)]),
        ("compress", ["/runs/a", "--rank", "8,16", *keys(compact_model__tail="tanh")]),
        ("export", ["/runs/a", "--int8", "--no-equalization", "--max-drop", "0.7"]),
        ("run", ["--camera", "0", "--size", "640x480", "--rotate", "90", "--shadow", *keys(shelf__idle_fps=0.5)]),
    ],
)
def test_what_a_command_resolved_can_be_given_again(name: str, arguments: list[str], tmp_path: Path) -> None:
    context = parsed(name, *arguments)
    paths = {key: value.absolute() for key, value in context.params.items() if isinstance(value, Path)}
    assert again(name, context, tmp_path) == {**context.params, **paths}


def test_what_was_resolved_holds_no_credentials(tmp_path: Path) -> None:
    addresses = [
        "--camera",
        "rtsp://me:hunter2@cam/1",
        "--mqtt",
        "mqtt://me:hunter2@broker",
        "--webhook",
        "http://h/hunter2",
    ]
    text = resolved(parsed("run", *addresses, *keys(screen__web_token="hunter2-hunter2-hunter2")))
    assert "hunter2" not in text
    assert "# camera is left out here" in text


def test_a_training_run_keeps_a_file_that_trains_the_same_again(shop: Path, tmp_path: Path) -> None:
    file = shop / "runs" / "latest" / "config.toml"
    here = Path.cwd()
    os.chdir(tmp_path)  # all paths in it are absolute
    try:
        config = _config(parsed("train", "--config", str(file)))
    finally:
        os.chdir(here)
    record = json.loads((shop / "runs" / "latest" / "run.json").read_text())
    assert config == TrainConfig.model_validate_json(json.dumps(record["config"]))


def test_an_export_keeps_its_configuration_next_to_the_bundle(shop: Path) -> None:
    run = (shop / "runs" / "latest").resolve()
    context = parsed("export", "--config", str(run / "bundle.toml"))
    assert [name for name in ("int8", "fp16", "float32", "mixed") if context.params[name]] == [
        "int8",
        "fp16",
        "float32",
    ]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8"])
    write_photos(folder / "photos", per_label=1)
    yield folder


def test_the_summary_of_a_run_holds_a_file_that_runs_the_same_again(shelf: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Result:
        return typed(shelf, "run", *arguments, "--json")

    first = run("--bundle", "bundle", "--camera", "photos", "--max-frames", "3", *keys(events__device_id="door"))
    assert first.exit_code == 0, first.stderr
    (tmp_path / "again.toml").write_text(json.loads(first.stdout)["config"])
    second = run("--config", str(tmp_path / "again.toml"))
    assert second.exit_code == 0, second.stderr
    assert json.loads(second.stdout)["classified"] == 3
    assert json.loads(second.stdout)["config"] == json.loads(first.stdout)["config"]


def test_every_choice_has_a_sentence_in_the_written_file() -> None:
    for name in CONFIGURED:
        lines = commented(command_of(name), name).splitlines()
        for before, line in pairwise(lines):
            if "=" in line and not line.startswith("#"):
                assert before.startswith("# "), f"{name}: {line}"
