"""CONTRIBUTING.md: every file and name it mentions exists, and each recipe of "How to add" works for a toy."""

from __future__ import annotations

import ast
import re
import sys
import time
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import numpy as np
import pytest
from click.testing import CliRunner

from edgebcnn import cli
from edgebcnn.device import runtime
from edgebcnn.device.profile import Delegate, load_profile
from edgebcnn.progress import Silent
from edgebcnn.quantize.calibration.ranges import Histogram, RangeChoice, RangeMethod, choose_range
from edgebcnn.sinks.choices import SinkChoices, open_sinks
from edgebcnn.sinks.event import Event
from edgebcnn.sinks.outlet import EventSink
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.live import LiveStream
from edgebcnn.sources.reconnect import Patience
from tests.broker import wait_until
from tests.readings import reading

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", DOCUMENT, flags=re.S | re.M))
KINDS = ("backbone", "range method", "device", "sink", "source", "command")


def test_every_path_that_it_names_exists() -> None:
    paths = re.findall(r"`((?:edgebcnn|docs|tests|calibration|devices|benchmarks)(?:/[\w./]*)?)`", DOCUMENT)
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("kind", KINDS)
def test_each_recipe_names_at_most_a_new_file_and_two_to_edit(kind: str) -> None:
    (recipe,) = (text for title, text in RECIPES.items() if re.match(rf"An? {kind}\b", title))
    steps = re.findall(r"^\d\. (?:A new file (?:in )?)?`([\w/.]+)`", recipe, flags=re.M)
    assert len(steps) == 2, steps


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_in_a_step_stands_in_the_file_of_that_step(kind: str) -> None:
    (recipe,) = (text for title, text in RECIPES.items() if re.match(rf"An? {kind}\b", title))
    for path, text in re.findall(r"^\d\. `(edgebcnn/[\w/]+\.py)`: (.+)$", recipe, flags=re.M):
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", text):
            assert re.search(rf"\b{name}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("mse", "quantize/calibration/ranges.py"),
        ("vgg19", "model/backbones.py"),
        ("efficientnet_b0", "model/backbones.py"),
    ],
)
def test_an_entry_of_a_registry_is_named_in_no_other_file(entry: str, file: str) -> None:
    package = ROOT / "edgebcnn"
    holders = {str(path.relative_to(package)) for path in package.rglob("*.py") if entry in _constants(path)}
    assert holders == {file}


def test_every_range_method_gives_a_range_and_is_in_the_docs() -> None:
    seen = Histogram()
    seen.add(np.random.default_rng(5).standard_t(4, 10_000).astype(np.float32))
    documented = (ROOT / "calibration" / "README.md").read_text(encoding="utf-8")
    widths = set()
    for method in get_args(RangeMethod):
        choice = RangeChoice(range_method=method, percentile=99.0 if method == "percentile" else None)
        widths.add(choose_range(seen, choice).scale)
        assert f"| `{method}` |" in documented
    assert len(widths) == len(get_args(RangeMethod)), "each method clips these heavy tails elsewhere"


def test_a_new_device_is_a_toml_file(tmp_path: Path) -> None:
    profile = tmp_path / "toy.toml"
    profile.write_text(
        'name = "toy"\ndescription = "A toy."\nruntime = "litert"\ndelegate = "external"\nprecision = "int8"\n'
        '[external]\nlibrary = "libtoy.so"\n'
    )
    assert load_profile(str(profile)).name == "toy"


def test_every_delegate_has_a_module_that_loads_models() -> None:
    assert set(runtime._LOADERS) == set(get_args(Delegate))
    for module in runtime._LOADERS.values():
        assert "load" in _functions(ROOT / f"{module.replace('.', '/')}.py")


def test_a_new_sink_gets_the_events_of_a_run() -> None:
    class Toy(EventSink):
        name = "toy"

        def __init__(self) -> None:
            self.events: list[Event] = []

        def write(self, event: Event) -> None:
            self.events.append(event)

    toy = Toy()
    sinks = open_sinks(
        SinkChoices(),
        bundle_digest="0" * 64,
        terminal=None,
        keep_every_line=True,
        reporter=Silent(),
        in_a_hurry=lambda: False,
        others=[toy],
    )
    sinks.write(reading(0))
    wait_until(lambda: len(toy.events) == 1)
    sinks.close()
    assert [count.sink for count in sinks.counts()] == ["toy"]


def test_every_setting_of_a_sink_is_a_flag_of_run() -> None:
    command = cli.main.get_command(click.Context(cli.main), "run")
    assert command is not None
    flags = (ROOT / "edgebcnn" / "cli" / "flags" / "sinks.py").read_text(encoding="utf-8")
    assert not [field.name for field in fields(SinkChoices) if f"--{field.name.replace('_', '-')}" not in flags]


def test_a_new_source_is_a_capture_and_gives_frames() -> None:
    class Toy:
        def read(self) -> Picture:
            time.sleep(0.01)
            return Picture(np.full((4, 6, 3), 7, np.uint8), time.monotonic())

        def abort(self) -> None:
            """Its reads never wait."""

        def release(self) -> None:
            """It holds nothing."""

    with closing(LiveStream("toy", lambda _timeout_s: Toy(), reporter=Silent(), patience=Patience())) as stream:
        frame = next(stream.frames(lambda: False))
    assert frame.image_bgr.mean() == 7


def test_a_new_command_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def toy() -> None:
        """Play."""
        click.echo("played")

    module: Any = ModuleType("edgebcnn.cli.toy")
    module.command = toy
    monkeypatch.setitem(sys.modules, "edgebcnn.cli.toy", module)
    monkeypatch.setitem(cli.COMMANDS, "toy", "Play")
    assert CliRunner().invoke(cli.main, ["toy"]).output == "played\n"
    assert "Play" in CliRunner().invoke(cli.main, ["--help"]).output


def test_a_new_backbone_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebcnn.model.backbones import BACKBONES, Backbone
    from edgebcnn.model.bcnn import Architecture, build
    from edgebcnn.model.keras import keras

    def published(image: Any, _weights: str | None) -> Any:
        return keras.Model(image, keras.layers.Conv2D(12, 3, 4, padding="same", name="toy_conv")(image))

    monkeypatch.setitem(BACKBONES, "toy", Backbone("toy", published, "toy_conv", pretrained=False))
    bcnn = build(Architecture(streams="toy", pooling="hadamard", rank=8, tail="tanh", classes=3))
    assert bcnn.model(np.zeros((1, 16, 16, 3), np.float32)).shape == (1, 3)


def test_a_new_pooling_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebcnn.model import heads
    from edgebcnn.model.bcnn import Architecture, build

    (tmp_path / "toy.py").write_text(
        "from edgebcnn.model.head import Head\n\n\n"
        "class Toy(Head):\n"
        "    tails = ('none',)\n\n"
        "    def pool(self, shape, maps):\n"
        "        from edgebcnn.model.keras import keras\n\n"
        "        return keras.layers.GlobalMaxPooling2D(name='highest')(maps[0])\n\n\n"
        "HEAD = Toy()\n"
    )
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path)])
    assert "toy" in heads.compact_names()
    bcnn = build(Architecture(streams="small", pooling="toy", tail="none", classes=3))
    assert bcnn.model(np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 3)
    sys.modules.pop("edgebcnn.model.heads.toy", None)


def _constants(path: Path) -> set[str]:
    """Every string of a file that stands alone, docstrings apart."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
