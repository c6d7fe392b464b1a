"""`edgebcnn check` says in one receipt whether a bundle is right here, and catches whoever touched it."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgebcnn.bundle import GOLDEN_NAME, LABELS_NAME, Bundle, write_bundle
from edgebcnn.cli import main
from edgebcnn.device.profile import load_profile
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import BundleError, DeviceError
from tests.tiny_bundle import LABELS, make_tiny_bundle, write_photos

PROFILE = """
name = "box"
description = "A box."
runtime = "litert"
delegate = "xnnpack"
precision = "int8"
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def own(folder: Path, *lines: str) -> Path:
    path = folder / "box.toml"
    path.write_text(PROFILE + "\n".join(lines))
    return path


def with_golden(bundle: Bundle, path: Path, **changes: Any) -> Bundle:
    """The same bundle, exported with other golden photos."""
    with np.load(bundle.path / GOLDEN_NAME) as archive:
        arrays = {**archive, **changes}
    content = io.BytesIO()
    np.savez(content, **arrays)
    files = {model.file: (bundle.path / model.file).read_bytes() for model in bundle.manifest.models.values()}
    return write_bundle(path, bundle.manifest, LABELS, {**files, GOLDEN_NAME: content.getvalue()})


def test_a_bundle_that_is_right_has_its_receipt_and_exit_code_0(bundle: Bundle) -> None:
    result = typed("check", "--bundle", bundle.path, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    for line in (
        r"delegate  LiteRT 2",
        "at export same product on 12 of 12 photos",
        "CPU here  same product on 12 of 12 photos",
        "accuracy  100.0 % (95 % CI",
        "with the full model",
        "photos, read-back included)",
        "verdict   passed",
    ):
        assert line in result.stdout


def test_the_json_has_every_figure(bundle: Bundle) -> None:
    result = typed("check", "--bundle", bundle.path, "--precision", "float32", "--threads", 1, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["receipt"]["ops_taken"] == 3
    assert report["receipt"]["left"] == {}
    assert report["golden"]["at_export"]["same_top1"] == report["accuracy"]["n"] == report["agreement"]["n"] == 12
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert latency["n"] == 200
    assert report["memory_mb"] > 10
    assert report["load_ms"] > 0
    assert report["machine"]["cores"] >= 1
    assert report["verdict"] == {"passed": True, "problems": []}


@pytest.mark.parametrize("name", ["model.int8.tflite", LABELS_NAME, GOLDEN_NAME])
def test_one_changed_byte_is_caught(bundle: Bundle, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    result = typed("check", "--bundle", copy)
    assert result.exit_code == BundleError.exit_code
    assert f"{name} was changed after export (its SHA-256 differs): copy the bundle again" in result.stderr
    assert result.stdout == ""


def test_answers_other_than_at_export_are_refused_with_the_receipt(bundle: Bundle, tmp_path: Path) -> None:
    with np.load(bundle.path / GOLDEN_NAME) as archive:
        turned = np.roll(archive["edge_int8"], 1, axis=1)
    other = with_golden(bundle, tmp_path / "other", edge_int8=turned)
    result = typed("check", "--bundle", other.path, "--threads", 1, "--json")
    assert result.exit_code == DeviceError.exit_code
    assert "does not compute what the model did at export (same product on 0 of 12 photos" in result.stderr
    report = json.loads(result.stdout)
    assert not report["verdict"]["passed"]
    assert report["golden"]["on_cpu"]["same_top1"] == 12


def test_golden_photos_that_do_not_fit_the_bundle_are_named(bundle: Bundle, tmp_path: Path) -> None:
    other = with_golden(bundle, tmp_path / "other", full=np.zeros((12, 3), np.float32))
    result = typed("check", "--bundle", other.path)
    assert result.exit_code == BundleError.exit_code
    assert "(full is float32 (12, 3), not (12, 4)): export the bundle again" in result.stderr


def test_a_precision_that_the_bundle_lacks_is_named_with_its_remedy(bundle: Bundle) -> None:
    result = typed("check", "--bundle", bundle.path, "--precision", "fp16")
    assert result.exit_code == BundleError.exit_code
    assert f"{bundle.path} has no fp16 model, it has float32, int8: export it with --fp16" in result.stderr


def test_a_limit_of_the_profile_is_held(bundle: Bundle, tmp_path: Path) -> None:
    result = typed(
        "check", "--bundle", bundle.path, "--device", own(tmp_path, "threads = 1", "[limits]", "memory_mb = 5")
    )
    assert result.exit_code == DeviceError.exit_code
    assert "MB, more than the 5 MB of the profile box: use a smaller model or precision" in result.stderr
    assert "verdict   it takes" in result.stdout


def test_a_missing_delegate_is_a_sentence_and_the_cpu_says_when_it_takes_over(bundle: Bundle, tmp_path: Path) -> None:
    external = PROFILE.replace("xnnpack", "external") + '[external]\nlibrary = "libgone.so"\n'
    (tmp_path / "gone.toml").write_text(external)
    arguments = ("run", "--bundle", bundle.path, "--camera", tmp_path / "photos", "--device", tmp_path / "gone.toml")
    write_photos(tmp_path / "photos", per_label=1)
    refused = typed(*arguments)
    assert refused.exit_code == DeviceError.exit_code
    assert "Error: libgone.so is not there" in refused.stderr
    allowed = typed(*arguments, "--allow-cpu-fallback")
    assert allowed.exit_code == 0, allowed.stderr
    assert "Going on with the CPU: libgone.so is not there" in allowed.stderr
    assert "CPU FALLBACK: libgone.so is not there" in allowed.stdout
    summary = json.loads(typed(*arguments, "--allow-cpu-fallback", "--json").stdout)
    assert summary["receipt"]["fallback"].startswith("libgone.so is not there")
    assert summary["receipt"]["delegate"] == "XNNPACK"


def test_a_profile_says_which_camera_run_reads(bundle: Bundle, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=1)
    profile = own(tmp_path, "threads = 1", "[camera]", f'source = "{tmp_path}/photos"')
    result = typed("run", "--bundle", bundle.path, "--device", profile, "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["classified"], summary["receipt"]["threads"]) == (4, 1)


def test_flags_that_exclude_each_other_are_a_wrong_command_line(bundle: Bundle) -> None:
    result = typed("check", "--bundle", bundle.path, "--allow-cpu-fallback", "--require-full-delegation")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_an_unknown_device_is_refused_with_the_nearest(bundle: Bundle) -> None:
    result = typed("check", "--bundle", bundle.path, "--device", "rasberry-pi-5")
    assert result.exit_code == DeviceError.exit_code
    assert "no device profile is called 'rasberry-pi-5': use raspberry-pi-5 or " in result.stderr


def test_a_missing_bundle_names_what_makes_one(tmp_path: Path) -> None:
    result = typed("check", "--bundle", tmp_path / "none")
    assert result.exit_code == BundleError.exit_code


def test_the_service_file_types_a_command_that_exists() -> None:
    service = (Path(__file__).parents[1] / "devices" / "edgebcnn.service").read_text()
    (typed_there,) = re.findall(r"^ExecStart=\S+/edgebcnn (.+)$", service, re.MULTILINE)
    name, *arguments = typed_there.split()
    command = main.get_command(click.Context(main), name)
    assert command is not None
    context = command.make_context(name, arguments)
    assert load_profile(context.params["device"]).name == "raspberry-pi-5"


def test_hard_photos_show_whether_a_device_is_right_and_not_how_good_the_model_is(bundle: Bundle) -> None:
    golden = read_golden(bundle, "int8")
    hard = np.arange(len(golden.pixels)) % 3 == 0
    mistaken = np.where(hard, (golden.class_ids + 1) % 4, golden.class_ids)
    chosen = replace(golden, hard=hard, class_ids=mistaken, full=np.eye(4, dtype=np.float32)[mistaken])
    for share in (chosen.accuracy(golden.edge), chosen.agreement(golden.edge)):
        assert (share.successes, share.n) == (8, 8)
