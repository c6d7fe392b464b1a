"""A bundle answers on aarch64 and on 32-bit ARM as it does here.

`tests/other_architectures.sh` makes both machines, which QEMU plays, and runs this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.device.profile import load_profile
from edgebcnn.device.selftest import difference
from edgebcnn.device.trial import try_model
from tests.tiny_bundle import make_tiny_bundle, write_photos
from tests.typing_in import typed

MACHINES = Path(__file__).parents[1] / ".other-architectures"
TIMEOUT_S = 10_000

REPLAY = """
import sys
from pathlib import Path
import numpy as np
from edgebcnn.bundle import open_bundle
from edgebcnn.device.profile import load_profile
from edgebcnn.device.trial import try_model

bundle, profile, outputs = open_bundle(Path(sys.argv[1])), load_profile(sys.argv[2]), Path(sys.argv[3])
for precision in bundle.manifest.models:
    trial = try_model(bundle, profile, precision=precision, threads=1, calls=0, timeout_s=10_000)
    np.save(outputs / precision, trial.outputs)
    print(trial.receipt, flush=True)
"""


class Board(NamedTuple):
    """A machine, QEMU's name of a processor, and the device profile for both."""

    machine: str
    cpu: str
    profile: str

    def python(self, code: Path, *arguments: str | Path) -> str:
        """What its Python prints when it finds our `code` there and is given these arguments."""
        python = MACHINES / self.machine / "python"
        environment = {**os.environ, "PYTHONPATH": str(code), "QEMU_CPU": self.cpu}
        ran = subprocess.run([python, *arguments], cwd=code, env=environment, stdout=subprocess.PIPE, text=True)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout


# Each takes XNNPACK's kernels of its own: plain NEON, then dot products, then all that QEMU knows.
AARCH64 = [
    Board("aarch64", "cortex-a72", "cpu"),
    Board("aarch64", "cortex-a76", "cpu"),
    Board("aarch64", "max", "cpu"),
]
ARMV7 = Board("armv7l", "cortex-a7", "raspberry-pi-3-armv7")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs of us, without what we need: that is on the machines."""
    if not (MACHINES / "ready").exists():
        pytest.skip("no other architectures: tests/other_architectures.sh brings them")
    folder = tmp_path_factory.mktemp("code")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    subprocess.run([*pip, "--target", folder, MACHINES.parent], check=True)
    return folder


@pytest.fixture(scope="module")
def bundle(code: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The one that the script was given, or one of a small network."""
    if given := os.environ.get("BUNDLE"):
        return open_bundle(Path(given))
    path = tmp_path_factory.mktemp("arm") / "bundle"
    flags = ("--int8", "--fp16", "--float32", "--runtime-compat", "--recipe", "quick", "--output", path)
    result = typed(request.getfixturevalue("shop"), "export", *flags)
    assert result.exit_code == 0, result.output
    return open_bundle(path)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("board", [*AARCH64, ARMV7], ids="-".join)
def test_the_golden_photos_are_answered_as_on_this_machine(
    board: Board, code: Path, bundle: Bundle, tmp_path: Path
) -> None:
    receipts = board.python(code, "-c", REPLAY, bundle.path.resolve(), board.profile, tmp_path).splitlines()
    for precision, receipt in zip(bundle.manifest.models, receipts, strict=True):
        here = try_model(bundle, load_profile("cpu"), precision=precision, threads=1, calls=0)
        there = np.load(tmp_path / f"{precision}.npy")
        apart = difference(there, here.outputs)
        equal = f"{(there == here.outputs).sum()} of {there.size} outputs are equal"
        print(f"{board.cpu}: {receipt}: {equal}, {apart}")
        assert apart.is_rounding
        if board != ARMV7:  # that has another runtime, with kernels of its own
            # XNNPACK leaves SOFTMAX to LiteRT's own kernel, which is another one on each architecture.
            assert apart.same_top1 == apart.photos
            assert apart.typical_steps < 0.5
            assert apart.most_steps <= (1 if precision == "int8" else 0.5)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("board", [AARCH64[0], ARMV7], ids="-".join)
def test_a_device_install_checks_and_runs(board: Board, code: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle").path
    write_photos(tmp_path / "photos")
    device = ("--device", board.profile, "--threads", "1", "--json")
    checked = json.loads(board.python(code, "-m", "edgebcnn", "check", "--bundle", bundle, *device))
    assert (checked["machine"]["architecture"], checked["verdict"]["passed"]) == (board.machine, True)
    ran = board.python(code, "-m", "edgebcnn", "run", "--bundle", bundle, "--camera", tmp_path / "photos", *device)
    assert json.loads(ran)["accuracy"]["value"] == 1.0
