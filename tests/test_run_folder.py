"""What a run folder keeps is whole, and what a disk, a hand or time did to it is said in one sentence."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, RunError, StorageError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.model.bcnn import Bcnn, build
from edgebcnn.model.keras import keras
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.train.claim import check_place, created
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.fit import EpochReport
from edgebcnn.train.history import History
from edgebcnn.train.run_folder import (
    RunRecord,
    architecture,
    check_photos,
    read_photos,
    read_record,
    read_weights,
    resume_command,
    weights_path,
    write_photos,
    write_record,
    write_weights,
)

LABELS = (Label(name="Blue"), Label(name="Red"))
CONFIG = TrainConfig(data="photos", streams="small", weights="none", rank=8)
EPOCH = EpochReport(
    role="full", stage="head", epoch=1, loss=1, accuracy=0.5, val_loss=1, val_accuracy=0.5, head_rate=0.1, seconds=2
)


def compact(seed: int) -> Bcnn:
    keras.utils.set_random_seed(seed)
    return build(architecture(CONFIG, len(LABELS), "compact"))


def assert_same_weights(first: Bcnn, second: Bcnn) -> None:
    for expected, found in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def dataset(*photos: Path) -> ProductDataset:
    return ProductDataset(Path("photos"), LABELS, tuple(Photo(photo, 0) for photo in photos), (), (), (), ())


def test_a_run_of_before_the_resize_was_a_choice_keeps_its_own(tmp_path: Path) -> None:
    write_record(tmp_path, RunRecord(config=CONFIG, labels=LABELS))
    record = tmp_path / "run.json"
    document = json.loads(record.read_text())
    assert document["config"].pop("interpolation") == read_record(tmp_path).config.interpolation == "halving"
    record.write_text(json.dumps(document))
    assert read_record(tmp_path).config.preprocessing(64) == Preprocessing(
        height_px=64, width_px=64, fit="crop", interpolation="area", mean=127.5, std=127.5
    )


def test_weights_come_back_bit_for_bit_to_us_and_to_keras(tmp_path: Path) -> None:
    written, read, by_keras = compact(1), compact(2), compact(3)
    write_weights(tmp_path, "compact", written)
    read_weights(tmp_path, "compact", read)
    by_keras.model.load_weights(str(weights_path(tmp_path, "compact")))
    assert_same_weights(written, read)
    assert_same_weights(written, by_keras)


def test_a_full_disk_under_weights_is_said_and_leaves_no_half(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"no space left on the disk while writing .*compact/weights\.h5: free some"):
        write_weights(small_disk, "compact", compact(1))
    assert not [file for file in small_disk.rglob("*") if file.is_file()]


@pytest.mark.parametrize("content", [b"", b"not HDF5", None], ids=["empty", "garbage", "cut off"])
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None) -> None:
    write_weights(tmp_path, "compact", compact(1))
    file = weights_path(tmp_path, "compact")
    file.write_bytes(file.read_bytes()[:10_000] if content is None else content)
    with pytest.raises(
        RunError, match=r"weights\.h5 does not hold the weights of this run's compact model: put it back"
    ):
        read_weights(tmp_path, "compact", compact(1))


def test_a_tensorboard_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    history = History(tmp_path)
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/tensorboard, check the path and its permissions"):
        history.begin("full", "head")


def test_a_full_disk_under_tensorboard_is_said(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "tensorboard").symlink_to(small_disk)
    history = History(tmp_path)
    history.begin("full", "head")
    (small_disk / "other").write_bytes(bytes(_free_bytes(small_disk)))
    with pytest.raises(StorageError, match=r"tensorboard, no space left on the disk: .* --resume"):
        for _ in range(100):
            history.add(EPOCH)


def test_history_is_read_back_as_it_was(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin("full", "head")
    history.add(EPOCH)
    assert History(tmp_path).epochs == [EPOCH]


@pytest.mark.parametrize(
    "line",
    [b"full,head,one,1,1,1,1,1,1", b"full,head,1,1,1", b"full,head,1,1,1,1,1,1,1,1", b"full,h\xffad,1,1,1,1,1,1,1"],
    ids=["no number", "too short", "too long", "not UTF-8"],
)
def test_a_history_changed_by_hand_is_named(tmp_path: Path, line: bytes) -> None:
    header = b"role,stage,epoch,loss,accuracy,val_loss,val_accuracy,head_rate,seconds"
    (tmp_path / "history.csv").write_bytes(header + b"\n" + line + b"\n")
    with pytest.raises(RunError, match=r"history\.csv cannot be read or was changed by hand: undo the change, or rem"):
        History(tmp_path)


def test_photos_that_are_gone_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.jpg" for number in range(4)]
    photos[0].touch()
    photos[2].mkdir()
    with pytest.raises(
        DataError, match=rf"3 of the 4 photos of run are no longer there, the first is {photos[1]}: put"
    ):
        check_photos(Path("run"), dataset(*photos))


def test_a_photo_may_be_called_anything(tmp_path: Path) -> None:
    names = [b"caf\xe9.jpg", b'a, "b".jpg', "ä\n.jpg".encode()]
    photos = [tmp_path / os.fsdecode(name) for name in names]
    for photo in photos:
        photo.touch()
    write_photos(tmp_path, dataset(*photos))
    read = read_photos(tmp_path, RunRecord(config=CONFIG, labels=LABELS))
    assert [photo.path for photo in read.train] == photos
    check_photos(tmp_path, read)


def test_the_command_to_go_on_can_be_typed_whatever_the_run_is_called() -> None:
    words = shlex.split(resume_command(Path("my runs/it's $HOME")))
    assert words == ["edgebcnn", "train", "--resume", "--runs", "my runs", "--name", "it's $HOME"]


def test_photos_and_weights_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="photos", weights="start.h5")
    assert (config.data, config.weights) == (str(tmp_path / "photos"), str(tmp_path / "start.h5"))
    assert [TrainConfig(data="photos", weights=word).weights for word in ("none", "imagenet")] == ["none", "imagenet"]


def test_a_folder_in_the_place_of_the_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(RunError, match=r"latest is not a link"):
        check_place(tmp_path / "new")


def test_a_run_that_fails_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), created(tmp_path / "new") as part:
        (part / "run.json").touch()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_of_two_who_make_a_run_at_once_the_second_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*new"), created(tmp_path / "new") as part:
        (part / "run.json").write_text("second")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "run.json").write_text("first")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "run.json").read_text() == "first"


def _free_bytes(disk: Path) -> int:
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize
