"""The loop lives through cameras that drop, stall, corrupt and come back, and a broker that restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Phase, Schedule, failures, false_products, memory_slope, recoveries, soak
from edgebcnn.sources.jpeg_stream import NOTICES_EVERY_DAMAGE
from tests.broker import MOSQUITTO, free_port
from tests.test_rtsp import served

SHOWS = frozenset({"Red", "Green"})


def reading(at_s: float, label: str | None) -> dict[str, str | None]:
    return {"time": f"1970-01-01T00:00:{at_s:06.3f}Z", "label": label}


def test_the_soaks_own_checks_can_fail() -> None:
    phases = [Phase("good", 0, 2), Phase("stopped", 2, 5), Phase("good", 5, 10), Phase("frozen", 10, 14)]
    readings = [reading(1, "Red"), reading(3, "Blue"), reading(5.5, None), reading(6, "Green"), reading(13, "Red")]
    false = false_products(phases, readings, shows=SHOWS)
    assert [wrong["time"][-7:] for wrong in false] == ["03.000Z", "13.000Z"]
    assert recoveries(phases, readings) == [1.0]
    assert recoveries(phases, readings[:3]) == [float("inf")]
    assert memory_slope([(second, 100 + second / 600) for second in range(100)]) == pytest.approx(1.0)
    document = {"exit_code": 0, "false_products": 0, "recovery_s": [1.0], "memory_mb_per_10_min": 2.0, "summary": None}
    document |= {"readings_lost": 1, "readings_twice": 0}
    found = failures(document, minutes=30, sees_every_fault=True)
    assert found == ["memory grows", "a kind of bad frame was not seen", "a reading was lost"]


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(not NOTICES_EVERY_DAMAGE, reason="needs simplejpeg")
@pytest.mark.parametrize("camera", ["http", "rtsp"])
@pytest.mark.skipif(not MOSQUITTO, reason="needs a broker: sudo apt install mosquitto")
def test_a_minute_of_faults_costs_no_crash_no_false_product_and_no_event(tmp_path: Path, camera: str) -> None:
    if camera == "rtsp":
        pytest.importorskip("av", reason="OpenCV gives damaged pictures as whole ones: pip install 'edgebcnn[rtsp]'")
        server = served(free_port())  # skips where there is no GStreamer
        server.kill()
        server.communicate()
    document = soak(tmp_path, [camera], Schedule(60, good_s=3, fault_s=2.5))
    assert document["passed"], document
    assert document["broker_restarts"] >= 2
    assert document["runs"][camera]["summary"]["restarts"] >= 2
