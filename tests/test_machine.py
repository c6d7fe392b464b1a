"""What a machine has is read from its kernel's files, and what is not there stays empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgebcnn.cli import main
from edgebcnn.device.machine import inspect_machine, take_inventory
from edgebcnn.device.profile import profile_names
from edgebcnn.device.vulkan import Adapter
from edgebcnn.sources.cameras import Camera, attached_cameras

BOARD = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nprocessor\t: 1\nFeatures\t: fp asimd\n",
    "proc/meminfo": "MemTotal:        8064160 kB\nMemFree:         100 kB\nMemAvailable:    7000000 kB\n",
    "sys/class/thermal/thermal_zone0/temp": "51450\n",
    "sys/class/thermal/thermal_zone1/temp": "48000\n",
    "sys/class/video4linux/video0/name": "HD Webcam\n",
    "sys/class/video4linux/video0/index": "0\n",
    "sys/class/video4linux/video1/name": "HD Webcam\n",
    "sys/class/video4linux/video1/index": "1\n",
    "usr/lib/libedgetpu.so.1": "",
    "dev/video0": "",
}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The files of a Raspberry Pi with a camera and an Edge TPU, as far as they are read."""
    for name, content in BOARD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    link = tmp_path / "dev/v4l/by-id/usb-HD_Webcam-video-index0"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../video0")
    return tmp_path


def test_a_board_is_known_by_name_features_memory_and_heat(board: Path) -> None:
    machine = inspect_machine(board)
    assert machine.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.cpu_features == ("asimd", "asimdhp", "asimddp")
    assert (machine.memory_mb, machine.memory_available_mb) == (8257.7, 7168.0)
    assert machine.temperature_c == 51.45
    assert str(machine).startswith("Raspberry Pi 5 Model B Rev 1.0 · ")
    assert str(machine).endswith(" · 8258 MB · 51 °C")


def test_a_camera_is_listed_once_with_the_path_that_it_keeps(board: Path) -> None:
    stable = board / "dev/v4l/by-id/usb-HD_Webcam-video-index0"
    assert attached_cameras(board) == (Camera("/dev/video0", "HD Webcam", str(stable)),)


def test_a_camera_without_a_serial_number_is_known_by_its_socket(board: Path) -> None:
    stable = board / "dev/v4l/by-path/platform-csi.0-video-index0"
    stable.parent.mkdir()
    (board / "dev/v4l/by-id/usb-HD_Webcam-video-index0").rename(stable)
    assert attached_cameras(board) == (Camera("/dev/video0", "HD Webcam", str(stable)),)


def test_a_delegate_library_is_found(board: Path) -> None:
    assert str(board / "usr/lib/libedgetpu.so.1") in take_inventory(board).delegates


@pytest.mark.parametrize(
    ("gpu", "listed"),
    [
        (Adapter("NVIDIA Orin", "integrated"), "NVIDIA Orin (integrated)"),
        (
            Adapter("SwiftShader Device", "software"),
            "SwiftShader Device (software, for tests only)",
        ),
        (Adapter("llvmpipe (LLVM 15.0.6)", "software"), "llvmpipe (LLVM 15.0.6) (software, not usable by LiteRT)"),
    ],
)
def test_a_software_gpu_is_not_listed_as_if_models_could_run_on_it(gpu: Adapter, listed: str) -> None:
    assert str(gpu) == listed


def test_what_is_not_there_stays_empty(tmp_path: Path) -> None:
    inventory = take_inventory(tmp_path)
    machine = inventory.machine
    assert (machine.model, machine.memory_mb, machine.temperature_c, machine.cpu_features) == ("", None, None, ())
    assert attached_cameras(tmp_path) == ()
    assert machine.cores >= 1


def test_devices_lists_every_profile_and_this_machine() -> None:
    result = CliRunner().invoke(main, ["devices"])
    assert result.exit_code == 0, result.stderr
    words = ("nobody has measured this yet", "camera http://127.0.0.1:8080/video", "machine", "litert 2", "cameras")
    for word in (*profile_names(), *words):
        assert word in result.stdout


def test_devices_as_json_holds_profiles_and_machine() -> None:
    listed = json.loads(CliRunner().invoke(main, ["devices", "--json"]).stdout)
    assert [profile["name"] for profile in listed["profiles"]] == profile_names()
    assert {runtime["name"] for runtime in listed["runtimes"]} == {"litert", "tflite_runtime"}
    assert listed["machine"]["cores"] >= 1
