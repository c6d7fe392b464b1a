"""The loop lives through a camera that drops, stalls, corrupts and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Phase, failures, false_products, memory_slope, recoveries, soak
from edgebcnn.camera.jpeg import NOTICES_EVERY_DAMAGE


def reading(at_s: float, label: str | None) -> dict[str, str | None]:
    return {"time": f"1970-01-01T00:00:{at_s:06.3f}Z", "label": label}


def test_the_soaks_own_checks_can_fail() -> None:
    phases = [Phase("good", 0, 2), Phase("stopped", 2, 5), Phase("good", 5, 10), Phase("frozen", 10, 14)]
    readings = [reading(1, "Red"), reading(3, "Blue"), reading(5.5, None), reading(6, "Green"), reading(13, "Red")]
    assert [wrong["time"][-7:] for wrong in false_products(phases, readings) if wrong["time"]] == ["03.000Z", "13.000Z"]
    assert recoveries(phases, readings) == [1.0]
    assert recoveries(phases, readings[:3]) == [float("inf")]
    assert memory_slope([(second, 100 + second / 600) for second in range(100)]) == pytest.approx(1.0)
    document = {"exit_code": 0, "false_products": 0, "recovery_s": [1.0], "memory_mb_per_10_min": 2.0, "summary": None}
    assert failures(document, minutes=30) == ["memory grows", "a kind of bad frame was not seen"]


@pytest.mark.slow
@pytest.mark.skipif(not NOTICES_EVERY_DAMAGE, reason="needs simplejpeg")
def test_forty_seconds_of_faults_cost_no_crash_and_no_false_product(tmp_path: Path) -> None:
    document = soak(tmp_path, seconds=40, good_s=2, fault_s=2.5)
    assert document["passed"], document
    assert document["summary"]["restarts"] >= 2
