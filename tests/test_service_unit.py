"""There is one unit for systemd, and it tells apart what starting again helps from what needs a person."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgebcnn.errors import (
    AlarmError,
    BundleError,
    CameraError,
    DeviceError,
    HangError,
    MissingExtraError,
    StorageError,
)
from edgebcnn.loop.supervise import HANG_S

ROOT = Path(__file__).parents[1]
UNIT = (ROOT / "devices" / "edgebcnn.service").read_text()


def setting(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_the_docs_print_the_unit_that_is_installed() -> None:
    (printed,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL)
    assert printed == UNIT


def test_a_hang_is_restarted_and_what_needs_a_person_is_not() -> None:
    stays_down = {int(code) for code in setting("RestartPreventExitStatus").split()}
    assert stays_down == {2, BundleError.exit_code, MissingExtraError.exit_code, AlarmError.exit_code}
    for error in (HangError, CameraError, DeviceError, StorageError):
        assert error.exit_code not in stays_down
    assert setting("Restart") == "on-failure"
    assert setting("StartLimitIntervalSec") == "0"


def test_the_loop_ends_a_hang_itself_before_systemd_ends_the_process() -> None:
    assert setting("Type") == "notify"
    assert float(setting("WatchdogSec")) > HANG_S


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / "edgebcnn.service"
    installed = UNIT.replace("/opt/edgebcnn/bin/edgebcnn", "/bin/true").replace("User=edgebcnn", "User=root")
    unit.write_text(installed)
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert [line for line in checked.stderr.splitlines() if "edgebcnn.service" in line] == []
