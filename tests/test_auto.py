"""`--device auto` takes the fastest candidate that is right, remembers it, and can say why."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgebcnn.bundle import Bundle
from edgebcnn.cli import main
from edgebcnn.device.auto import Choice, Wanted, candidates, choose, measure, recall
from edgebcnn.device.machine import take_inventory
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.runtime import default_threads
from edgebcnn.device.vulkan import Adapter
from edgebcnn.errors import DeviceError
from tests.stub_delegate import WHOLE, compiled, using
from tests.tiny_bundle import make_tiny_bundle

RUNS = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DeviceProfile]:
    """Candidates by what is right or wrong with them."""
    folder = tmp_path_factory.mktemp("stubs")
    return {
        "right": compiled(folder, WHOLE),
        "slow": compiled(folder, WHOLE, "-DDELAY_MS=5"),
        "wrong": compiled(folder, WHOLE, "-DWRONG"),
        "partial": compiled(folder, "-DTAKES=1").model_copy(update={"precision": "int8"}),
        "idle": compiled(folder),
        "crashing": compiled(folder, WHOLE, "-DCRASHES"),
        "missing": using("libgone.so"),
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgebcnn"


def test_the_fastest_that_is_right_is_chosen_and_the_others_say_why_not(
    bundle: Bundle, planted: dict[str, DeviceProfile]
) -> None:
    choice = choose(bundle, list(reversed(planted.values())))
    assert choice.chosen == planted["right"]
    assert [one.profile for one in choice.considered[:2]] == [planted["right"], planted["slow"]]
    reasons = {name: one.dropped for name in planted for one in choice.considered if one.profile == planted[name]}
    assert reasons["right"] is reasons["slow"] is None
    assert "does not compute what the model did at export" in (reasons["wrong"] or "")
    assert "takes 1 of 5 ops" in (reasons["partial"] or "")
    assert "takes none" in (reasons["idle"] or "")
    assert "SIGABRT" in (reasons["crashing"] or "")
    assert "is not there" in (reasons["missing"] or "")


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(1200)
def test_the_choice_is_right_every_time(bundle: Bundle, planted: dict[str, DeviceProfile]) -> None:
    shuffled = random.Random(1)
    among = [planted[name] for name in ("right", "slow", "wrong", "partial", "crashing")]
    for _ in range(RUNS):
        order = shuffled.sample(among, len(among))
        assert choose(bundle, order).chosen == planted["right"]


def test_where_nothing_is_right_each_reason_is_said(bundle: Bundle, planted: dict[str, DeviceProfile]) -> None:
    with pytest.raises(DeviceError, match=r"nothing here runs .* right \(.*libgone\.so is not there"):
        choose(bundle, [planted["missing"]])
    with pytest.raises(DeviceError) as refused:
        choose(bundle, [planted["missing"].model_copy(update={"precision": each}) for each in ("int8", "float32")])
    assert str(refused.value).count("libgone.so is not there") == 1
    assert "pip install" not in str(refused.value)


def test_every_precision_is_a_candidate_on_every_delegate_that_is_there(bundle: Bundle) -> None:
    bare = replace(take_inventory(), gpus=(Adapter("SwiftShader", "software"),), delegates=())
    threads = {1, default_threads()}
    found = list(candidates(bundle, Wanted(), bare))
    assert {(one.precision, one.delegate, one.threads) for one in found} == {
        (precision, "xnnpack", count) for precision in ("int8", "float32") for count in threads
    }
    rich = replace(bare, gpus=(Adapter("Iris Xe", "integrated"),), delegates=("/usr/lib/libedgetpu.so.1",))
    delegates = {one.delegate for one in candidates(bundle, Wanted(), rich)}
    assert delegates == {"xnnpack", "gpu", "external"}
    fixed = list(candidates(bundle, Wanted(precision="float32", threads=1), bare))
    assert [(one.precision, one.threads) for one in fixed] == [("float32", 1)]


def test_a_choice_is_remembered_for_its_bundle_and_wish(bundle: Bundle, cache: Path) -> None:
    wanted = Wanted(precision="float32", threads=1)
    choice = measure(bundle, wanted)
    (remembered,) = cache.iterdir()
    slower = choice.model_copy(
        update={"considered": (choice.considered[0].model_copy(update={"latency_p50_ms": 7.0}),)}
    )
    remembered.write_text(slower.model_dump_json())
    assert recall(bundle, wanted) == slower
    remembered.write_text("{}")
    assert isinstance(recall(bundle, wanted), Choice)
    assert recall(bundle, wanted) != slower


@pytest.mark.usefixtures("cache")
def test_check_lists_what_auto_chose_among(bundle: Bundle) -> None:
    arguments = [
        "check",
        "--bundle",
        str(bundle.path),
        "--device",
        "auto",
        "--precision",
        "float32",
        "--threads",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["profile"] == "auto"
    assert [one["profile"]["delegate"] for one in report["considered"]] == ["xnnpack"]
