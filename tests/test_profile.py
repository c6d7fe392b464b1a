"""A device profile is found by its name or path, and a wrong one is refused with file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebcnn import catalog
from edgebcnn.camera_view import View
from edgebcnn.device.profile import DeviceProfile, load_profile
from edgebcnn.errors import DeviceError

PROFILE = """
name = "kiosk"
description = "The screen at the entrance."
runtime = "litert"
delegate = "xnnpack"
threads = 1
precision = "int8"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "kiosk.toml"
    path.write_text(PROFILE)
    return path


@pytest.mark.parametrize("name", catalog.names("edgebcnn._devices"))
def test_a_profile_that_comes_with_edgebcnn_bears_the_name_of_its_file(name: str) -> None:
    assert load_profile(name).name == name


def test_a_users_own_profile_is_found_by_its_path(own: Path) -> None:
    expected = DeviceProfile(
        name="kiosk",
        description="The screen at the entrance.",
        runtime="litert",
        delegate="xnnpack",
        threads=1,
        precision="int8",
    )
    assert load_profile(str(own)) == expected


def test_a_profile_says_what_was_measured_and_where(own: Path) -> None:
    own.write_text(
        PROFILE
        + """
        [[measured]]
        machine = "Kiosk 3, Debian 12"
        model = "grocery, 256 px"
        precision = "int8"
        runtime = "LiteRT 2.3.0"
        latency_p50_ms = 12
        command = "edgebcnn check --bundle bundle --device kiosk"
        """
    )
    said = load_profile(str(own)).said_of_measurements
    assert said == "12 ms p50 · grocery, 256 px · int8 · LiteRT 2.3.0 · Kiosk 3, Debian 12"


def test_a_profile_says_when_nobody_has_measured_it(own: Path) -> None:
    assert load_profile(str(own)).said_of_measurements == "nobody has measured this yet"


def test_a_profile_says_how_its_camera_films(own: Path) -> None:
    assert load_profile(str(own)).camera.view == View(rotate=0)
    own.write_text(PROFILE + '[camera]\nsource = "/dev/video2"\nsize = "1280x720"\nrate = 15\nrotate = 270')
    camera = load_profile(str(own)).camera
    assert camera.view == View((1280, 720), 15.0, 270)
    assert str(camera) == "camera /dev/video2 · 1280x720 · 15 frames/s · turned by 270°"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(DeviceError, match=r"no device profile is called 'cpuu': use cpu, or give the path"):
        load_profile("cpuu")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot read the device profile .*gone\.toml \(No such file"):
        load_profile(str(tmp_path / "gone.toml"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("threads", "treads", r"kiosk\.toml, field treads: there is no such field; the fields are name, description"),
        ("threads = 1", "threads = '1'", r"kiosk\.toml, field threads: .*valid integer"),
        ("threads = 1", "threads = 0", r"kiosk\.toml, field threads: .*greater than or equal to 1"),
        ('name = "kiosk"', "", r"kiosk\.toml, field name is missing: add it"),
        ("litert", "litert2", r"kiosk\.toml, field runtime: .*'litert' or 'tflite_runtime'"),
        ("threads = 1", "threads =", r"kiosk\.toml: it is not TOML \(.*line 6"),
        ("xnnpack", "external", r'kiosk\.toml, delegate = "external" needs a table \[external\] with the library'),
        (
            'precision = "int8"',
            'precision = "int8"\n[gpu]\nenforce_f32 = true',
            r'the table \[gpu\] belongs to delegate = "gpu"',
        ),
        (
            'precision = "int8"',
            'precision = "int8"\n[limits]\nheat = 80',
            r"kiosk\.toml, field limits\.heat: there is no such field; correct it",
        ),
        *(
            ('precision = "int8"', f'precision = "int8"\n[camera]\n{camera}', rf"kiosk\.toml, field camera{reason}")
            for camera, reason in (
                ('size = "720p"', r"\.size: '720p' is not WIDTHxHEIGHT in pixels, such as 1280x720; correct it"),
                ("size = [1280, 720]", r"\.size: .*valid string"),
                ("rate = 0", r"\.rate: .*greater than 0"),
                ("rate = nan", r"\.rate: "),
                ("rate = inf", r"\.rate: .*finite number"),
                ('rate = "15"', r"\.rate: .*valid number"),
                ("rotate = 45", r"\.rotate: .*0, 90, 180 or 270"),
                ("rotate = false", r"\.rotate: degrees are 0, 90, 180 or 270"),
                ("turn = 90", r"\.turn: there is no such field"),
                (
                    'source = "http://127.0.0.1/"\nrate = 15',
                    ": a stream has the size and rate that it has: leave them out",
                ),
            )
        ),
        ('"litert"\ndelegate = "xnnpack"', '"any"\ndelegate = "gpu"', r'delegate = "gpu" needs runtime = "litert"'),
        ("kiosk", "\N{LATIN SMALL LETTER E WITH ACUTE}", r"kiosk\.toml: line \d+ is not UTF-8"),
    ],
)
def test_a_wrong_profile_is_refused_with_file_and_field(own: Path, old: str, new: str, reason: str) -> None:
    own.write_bytes(PROFILE.replace(old, new).encode("latin-1"))
    with pytest.raises(DeviceError, match=reason):
        load_profile(str(own))
