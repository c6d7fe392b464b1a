"""A sample of frames: its file, its cap, its probabilities, and what kills leave of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgebcnn import atomic
from edgebcnn.bundle import Label
from edgebcnn.errors import BundleError, DataError, StorageError
from edgebcnn.field.plan import Boosts, kept_with
from edgebcnn.field.record import encoded, read_pixels, read_record
from edgebcnn.field.sample import STATE_NAME, SampleFolder, open_sample
from edgebcnn.field.sampler import WAITING_FRAMES, Sampler
from edgebcnn.loop.reading import Candidate, Reading
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Silent
from edgebcnn.report import weighted_share
from edgebcnn.shelf.watch import SeenSlot
from edgebcnn.sources.frames import Frame
from tests.readings import reading, shelf_reading
from tests.samples import DIGEST, noise, record

MB = 1_000_000
PREPROCESSING = Preprocessing(height_px=32, width_px=32)
NAMED = tuple(Label(name=f"product {class_id}") for class_id in range(100))


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a power cut needs takes most of the time here; the runs that are killed do flush."""
    monkeypatch.setattr(atomic, "_flush", lambda path: None)


def fill(path: Path, count: int, *, cap: int = 100 * MB, rng: np.random.Generator, **changes: Any) -> SampleFolder:
    folder = SampleFolder(path, bundle_digest=DIGEST, max_bytes=cap)
    for number in range(count):
        drawn = record(f"{rng.bytes(4).hex()}-{number}", draw=float(rng.random()), **changes)
        folder.add(drawn, encoded(drawn, noise(rng)))
    return folder


def on_disk(path: Path) -> int:
    """Bytes in a folder and its files, in whole blocks; files that go meanwhile count no more."""
    taken = 0
    for file in (path, *path.iterdir()):
        try:
            taken += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return taken


def test_a_record_is_a_picture_that_anyone_can_open(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels, known = noise(rng), record(photo="caf\udce9/1.jpg")
    file = tmp_path / "5f-0.png"
    file.write_bytes(encoded(known, pixels))
    assert np.array_equal(np.asarray(cv2.imread(str(file))), pixels[..., ::-1])
    assert np.array_equal(read_pixels(file), pixels)
    assert read_record(file) == known
    assert read_record(file).photo == "caf\\udce9/1.jpg"


def test_a_record_that_was_cut_or_changed_anywhere_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    content = encoded(record(), noise(rng, 8))
    file = tmp_path / "5f-0.png"
    for place in range(0, len(content), 3):
        file.write_bytes(content[:place])
        with pytest.raises(DataError, match="copy the sample again"):
            read_pixels(file)
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match="copy the sample again"):
            read_pixels(file)


def test_the_cap_holds_and_what_stays_has_the_lowest_ranks(tmp_path: Path, rng: np.random.Generator) -> None:
    path, cap, ranks = tmp_path / "sample", MB, []
    folder = SampleFolder(path, bundle_digest=DIGEST, max_bytes=cap)
    for number in range(400):
        drawn = record(f"5f-{number}", draw=float(rng.random()), boost=float(1 + 8 * rng.random()))
        folder.add(drawn, encoded(drawn, noise(rng)))
        ranks.append(drawn.rank)
        assert on_disk(path) <= cap
    folder.close()
    sample = open_sample(path)
    assert sorted(each.rank for each in sample.records) == sorted(each for each in ranks if each < sample.threshold)
    assert 0.75 * cap < on_disk(path)
    assert np.allclose(sample.kept_with, [min(1, each.boost * sample.threshold) for each in sample.records])


def test_a_later_run_goes_on_with_the_threshold_and_may_have_a_smaller_cap(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    fill(tmp_path, 300, cap=MB, rng=rng).close()
    before = open_sample(tmp_path)
    fill(tmp_path, 0, cap=2 * MB, rng=rng).close()
    assert open_sample(tmp_path) == before
    with_more = fill(tmp_path, 300, cap=MB, rng=rng)
    assert with_more.threshold < before.threshold
    with_more.close()
    fill(tmp_path, 0, cap=MB // 2, rng=rng).close()
    assert on_disk(tmp_path) <= MB // 2


def test_runs_of_several_rates_give_each_frame_its_own_probability(tmp_path: Path, rng: np.random.Generator) -> None:
    for rate in (1.0, 0.25):
        folder = SampleFolder(tmp_path, bundle_digest=DIGEST, max_bytes=100 * MB)
        drawn = record(f"{rng.bytes(4).hex()}-0", rate=rate, boost=2.0, draw=0.3)
        folder.add(drawn, encoded(drawn, noise(rng)))
        folder.close()
    sample = open_sample(tmp_path)
    assert sorted(sample.kept_with) == [0.5, 1.0]
    assert not sample.is_plain.any()


def test_boosts_favour_what_is_uncertain_or_rare() -> None:
    boosts = Boosts(np.array([90.0, 10.0, 0.0]))

    def of(class_id: int, first: float, second: float) -> float:
        best = (Candidate(class_id, "best", first), Candidate(3 - class_id, "next", second))
        return boosts.next(best)

    assert of(0, 1.0, 0.0) == 1
    assert of(0, 0.5, 0.5) == 5
    assert of(2, 1.0, 0.0) == 5
    assert 1 < of(1, 1.0, 0.0) < of(2, 0.6, 0.4)
    assert Boosts(np.zeros(3)).next((Candidate(0, "a", 0.5), Candidate(1, "b", 0.5))) == 9
    assert (kept_with(9, 0.02, 1.0), kept_with(9, 0.5, 1.0), kept_with(2, 0.5, 0.01)) == (0.18, 1.0, 0.02)


def test_the_weighted_estimate_is_unbiased_although_the_cap_thins_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 samples of one stream by the boosts and the folder that a run uses; only the files are left out."""
    monkeypatch.setattr("edgebcnn.field.sample.write_bytes", lambda path, content: None)
    rng = np.random.default_rng(3)
    n = 500
    margin, products = rng.beta(4, 1, n), rng.choice(4, n, p=[0.6, 0.3, 0.08, 0.02])
    agrees = rng.random(n) < 0.6 + 0.4 * margin  # uncertain frames, which are kept more often, agree less often
    boosts = Boosts(np.zeros(4))
    boost = [
        boosts.next((Candidate(int(product), "best", (1 + m) / 2), Candidate(9, "next", (1 - m) / 2)))
        for product, m in zip(products, margin, strict=True)
    ]
    contents = [bytes(3 * 4096 if m > 0.8 else 4 * 4096) for m in margin]  # what is uncertain takes more room
    weighted, unweighted = [], []
    for number in range(400):
        folder = SampleFolder(tmp_path / str(number), bundle_digest=DIGEST, max_bytes=4 * MB)
        draws = rng.random(n)
        ranks = draws / boost
        for frame in np.flatnonzero(ranks < 0.5):
            folder.add(record(f"5f-{frame}", draw=draws[frame], boost=boost[frame], rate=0.5), contents[frame])
        kept = ranks < min(0.5, folder.threshold)
        assert folder.threshold < 0.5 and folder.frames == kept.sum()
        probabilities = np.array([kept_with(boost[frame], 0.5, folder.threshold) for frame in np.flatnonzero(kept)])
        weighted.append(weighted_share(agrees[kept], probabilities).value)
        unweighted.append(agrees[kept].mean())
        folder.close()
    assert abs(np.mean(weighted) - agrees.mean()) < 0.003
    assert abs(np.mean(unweighted) - agrees.mean()) > 0.006, "without weights it would be biased"


def offered(frame: int, picture: Any, **changes: Any) -> tuple[Frame, Reading]:
    return Frame(frame, picture, time.monotonic()), reading(frame, **changes)


def sampler_of(folder: SampleFolder, *, rate: float = 1.0, classes: int = 100, **choices: Any) -> Sampler:
    own = {"run": "5f", "precision": "int8", "preprocessing": PREPROCESSING, "reporter": Silent()}
    return Sampler(folder, rate=rate, classes=classes, **{**own, **choices})


def test_a_slow_disk_costs_frames_and_never_the_loop(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SampleFolder(tmp_path, bundle_digest=DIGEST, max_bytes=10 * MB)
    add = folder.add

    def slow_add(*given: Any) -> bool:
        time.sleep(0.05)
        return add(*given)

    monkeypatch.setattr(folder, "add", slow_add)
    sampler, picture = sampler_of(folder), noise(rng)
    began_s = time.monotonic()
    for frame in range(100):
        sampler.write(*offered(frame, picture))
    assert time.monotonic() - began_s < 0.5
    sampler.write(*offered(100, picture, label=None, reason="black"))
    sampler.close()
    counts = sampler.counts()
    assert counts.offered == 100
    assert counts.kept + counts.lost == 100
    assert WAITING_FRAMES <= counts.kept == counts.held < 50
    assert len(open_sample(tmp_path).records) == counts.kept


def test_all_slots_of_one_frame_may_be_kept_while_the_disk_is_busy(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, slots = SampleFolder(tmp_path, bundle_digest=DIGEST, max_bytes=10 * MB), 3 * WAITING_FRAMES
    is_free, add = threading.Event(), folder.add

    def waiting_add(*given: Any) -> bool:
        return is_free.wait(30) and add(*given)

    monkeypatch.setattr(folder, "add", waiting_add)
    sampler = sampler_of(folder, at_once=slots)
    answer = np.eye(100, dtype=np.float32)[7]
    seen = tuple(SeenSlot("Top", f"A{slot}", noise(rng), answer, NAMED) for slot in range(slots))
    sampler.write_shelf(*shelf_reading(seen))
    is_free.set()
    sampler.close()
    records = open_sample(tmp_path).records
    assert {(each.shelf, each.slot) for each in records} == {("Top", f"A{slot}") for slot in range(slots)}
    assert {each.class_id for each in records} == {7}
    assert (sampler.counts().kept, sampler.counts().lost) == (slots, 0)


def test_a_record_of_a_whole_frame_is_written_and_read_as_before_there_were_slots(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    (tmp_path / "5f-1.png").write_bytes(encoded(record("5f-1"), noise(rng)))
    content = (tmp_path / "5f-1.png").read_bytes()
    assert not [name for name in (b'"shelf"', b'"slot"', b'"faces_blurred"') if name in content]
    found = read_record(tmp_path / "5f-1.png")
    assert (found.id, found.shelf, found.slot) == ("5f-1", None, None)


def test_a_full_disk_is_said_once_and_the_loop_goes_on(small_disk: Path, rng: np.random.Generator) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    path = small_disk / "sample"
    folder = SampleFolder(path, bundle_digest=DIGEST, max_bytes=10 * MB)
    sampler = sampler_of(folder, reporter=Told(), may_wait=True)
    for frame in range(60):
        sampler.write(*offered(frame, noise(rng)))
    sampler.close()
    counts = sampler.counts()
    assert counts.lost > 2 and counts.kept + counts.lost == 60
    assert "no space left" in said[0] and len(said) <= 2
    assert len(open_sample(path).records) == counts.kept


def kill_and_check(path: Path, *, cap: int, delay_s: float, told: dict[str, float]) -> None:
    """Kills a run that fills a sample: each frame must be whole, none missing that it told of, and the cap kept."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.samples", path, str(cap)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        end_s = time.monotonic() + delay_s
        while time.monotonic() < end_s:
            assert on_disk(path) <= cap
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        lines = process.stdout.read().splitlines(keepends=True)
    told |= {line.split()[0]: float(line.split()[1]) for line in lines if line.endswith("\n")}
    assert on_disk(path) <= cap
    sample = open_sample(path)
    assert sample.pixels(sample.records).shape[1:] == (64, 64, 3)
    held = {each.id: each.rank for each in sample.records}
    assert {name for name, rank in told.items() if rank < sample.threshold} <= held.keys()
    assert len(held.keys() - told.keys()) <= 1, "the one in flight may be there, untold"
    told |= held


def test_kills_at_random_moments_leave_whole_frames_and_keep_the_cap(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=5)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_whole_frames_and_keep_the_cap(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=20)


def kill_again_and_again(tmp_path: Path, *, times: int) -> None:
    told: dict[str, float] = {}
    moments = random.Random(9)
    for _ in range(times):
        kill_and_check(tmp_path / "sample", cap=500_000, delay_s=moments.uniform(0.02, 0.6), told=told)
    assert open_sample(tmp_path / "sample").threshold < 1, "the cap was reached"


def test_what_cannot_be_a_sample_is_refused_in_one_sentence(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "sample"
    with pytest.raises(DataError, match="not a whole sample"):
        open_sample(path)
    filling = fill(path, 10, rng=rng)
    with pytest.raises(StorageError, match="another run fills"):
        SampleFolder(path, bundle_digest=DIGEST, max_bytes=MB)
    filling.close()
    with pytest.raises(BundleError, match="holds frames of bundle 0123456789abcdef, and ffff"):
        SampleFolder(path, bundle_digest="f" * 64, max_bytes=MB)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"")
    with pytest.raises(StorageError, match="is not a sample"):
        SampleFolder(tmp_path / "photos", bundle_digest=DIGEST, max_bytes=MB)
    for file in sorted(path.glob("*.png"))[:5]:
        file.unlink()
    with pytest.raises(DataError, match="holds 5 of its 10 frames: copy"):
        open_sample(path)
    file = next(path.glob("*.png"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=f"{file.name} is cut short"):
        open_sample(path)
    (path / STATE_NAME).unlink()
    with pytest.raises(DataError, match="not a whole sample"):
        open_sample(path)
