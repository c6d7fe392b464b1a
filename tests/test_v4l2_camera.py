"""A V4L2 camera of the kernel's own, in a virtual machine, comes back whatever happens to it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.tiny_bundle import make_tiny_bundle
from tests.v4l2_guest import FAULTS, PICTURES, RETURN_S

SCRIPT = Path(__file__).with_name("v4l2_camera.sh")
PACKAGES = SCRIPT.parents[1] / ".v4l2-camera/layer"


@pytest.mark.slow
@pytest.mark.timeout(3600)  # three minutes; on a busy machine without KVM ten times as long
@pytest.mark.skipif(not PACKAGES.exists(), reason="no kernel to boot: tests/v4l2_camera.sh brings one")
def test_a_v4l2_camera_is_read_lost_and_found(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    ended = subprocess.run(["bash", SCRIPT, bundle.path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = json.loads(ended.stdout)
    assert [picture["reason"] for picture in seen["pictures"]] == list(PICTURES)
    assert len(seen["losses"]) == seen["restarts"] == len(FAULTS)
    assert all(loss["back_after_s"] <= RETURN_S for loss in seen["losses"])
