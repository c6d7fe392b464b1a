"""Loading a folder of photos: its layout, its splits, and every way in which it can be wrong."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.images.dataset import Photo, ProductDataset, load_dataset
from edgebcnn.images.layouts import natural_order

CLASSES_HEADER = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic Image Path (str)"


def write_photo(path: Path) -> None:
    """A small photo with content of its own, drawn from its path."""
    rng = np.random.default_rng(list(str(path).encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rng.integers(0, 256, (16, 16, 3), np.uint8))


def write_folders(root: Path, photos: Mapping[str, int]) -> Path:
    """`{"train/Milk": 5}` becomes five photos in that folder."""
    for folder, count in photos.items():
        for number in range(1, count + 1):
            write_photo(root / folder / f"shelf_{number}.jpg")
    return root


def write_lists(root: Path) -> Path:
    """Two products in the published layout: 6 train, 2 val and 2 test photos of each."""
    root.mkdir(exist_ok=True)
    (root / "classes.csv").write_text(f"{CLASSES_HEADER}\nMilk,0,Dairy,0,/milk.jpg\nJuice,1,Drinks,1,/juice.jpg\n")
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        lines = []
        for class_id, product in enumerate(("Milk", "Juice")):
            write_folders(root, {f"{split}/{product}": count})
            lines += [f"{split}/{product}/shelf_{number}.jpg, {class_id}, {class_id}" for number in range(1, count + 1)]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def edit_line(file: Path, number: int, line: str) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines) + "\n")


def names(dataset: ProductDataset) -> list[str]:
    return [label.name for label in dataset.labels]


def counts(photos: Iterable[Photo]) -> dict[int, int]:
    return dict(Counter(photo.class_id for photo in photos))


def sizes(dataset: ProductDataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.val), len(dataset.test)


# List files


def test_list_files_give_splits_names_and_coarse_classes(tmp_path: Path) -> None:
    dataset = load_dataset(write_lists(tmp_path))
    assert dataset.labels == (Label(name="Milk", coarse="Dairy"), Label(name="Juice", coarse="Drinks"))
    assert sizes(dataset) == (12, 4, 4)
    assert dataset.train[-1] == Photo(tmp_path / "train/Juice/shelf_6.jpg", 1)
    assert dataset.notes == ("layout: list files train.txt, val.txt, test.txt with classes.csv",)


def test_classes_csv_may_list_the_ids_in_any_order(tmp_path: Path) -> None:
    write_lists(tmp_path)
    (tmp_path / "classes.csv").write_text(f"{CLASSES_HEADER}\nJuice,1,Drinks,1,x\nMilk,0,Dairy,0,x\n")
    assert names(load_dataset(tmp_path)) == ["Milk", "Juice"]


def test_a_photo_whose_name_has_a_comma_can_be_listed(tmp_path: Path) -> None:
    write_photo(write_lists(tmp_path) / "train" / "Milk, 1 %.jpg")
    edit_line(tmp_path / "train.txt", 1, "train/Milk, 1 %.jpg, 0, 0")
    assert load_dataset(tmp_path).train[0].path.name == "Milk, 1 %.jpg"


@pytest.mark.parametrize(
    ("file", "number", "line", "message"),
    [
        ("test.txt", 3, "test/Juice/gone.jpg, 1, 1", "test.txt, line 3: there is no photo .*gone.jpg"),
        ("val.txt", 2, "val/Milk/shelf_2.jpg, 0", "val.txt, line 2: expected 'path, class id, coarse class id'"),
        ("val.txt", 2, "val/Milk/shelf_2.jpg, Milk, 0", "val.txt, line 2: expected"),
        ("train.txt", 4, "train/Milk/shelf_4.jpg, 2, 0", "train.txt, line 4: class id 2 is not in classes.csv"),
        ("train.txt", 4, "train/Milk/shelf_4.jpg, 0, 1", "train.txt, line 4: coarse class id 1, but .* says 0"),
        ("train.txt", 4, f"train/Milk/shelf_4.jpg, {'9' * 5000}, 0", "train.txt, line 4: expected"),
        ("test.txt", 1, "train/Milk/shelf_4.jpg, 0, 0", "test.txt, line 1: .* listed before, in .*train.txt, line 4"),
        ("classes.csv", 1, "name,id", "classes.csv, line 1: the columns must be Class Name"),
        ("classes.csv", 2, "Milk,zero,Dairy,0,x", "classes.csv, line 2: expected a name, an id"),
        ("classes.csv", 2, "Milk,0,Dairy", "classes.csv, line 2: expected 5 cells, found 3"),
        ("classes.csv", 3, "Milk,1,Dairy,0,x", "classes.csv, line 3: name Milk or id 1 was given before"),
        ("classes.csv", 3, "Juice,0,Drinks,1,x", "classes.csv, line 3: name Juice or id 0 was given before"),
        ("classes.csv", 3, "Juice,2,Drinks,1,x", "class ids must run from 0 to 1 without a gap"),
        ("classes.csv", 3, '"Juice,1,Drinks,1,x', "classes.csv, line 3: not CSV"),
    ],
)
def test_a_wrong_line_in_a_list_file_is_named(tmp_path: Path, file: str, number: int, line: str, message: str) -> None:
    edit_line(write_lists(tmp_path) / file, number, line)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


def test_a_missing_classes_csv_is_named(tmp_path: Path) -> None:
    (write_lists(tmp_path) / "classes.csv").unlink()
    with pytest.raises(DataError, match=r"classes.csv cannot be read \(No such file"):
        load_dataset(tmp_path)


def test_a_list_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (write_lists(tmp_path) / "val.txt").write_bytes("val/Käse.jpg, 0, 0".encode("latin-1"))
    with pytest.raises(DataError, match=r"val.txt, line 1 is not UTF-8 text"):
        load_dataset(tmp_path)


def test_a_product_of_test_that_train_lacks_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    (tmp_path / "train.txt").write_text("\n".join(line for line in lines if "Juice" not in line))
    with pytest.raises(DataError, match="val has photos of Juice, of which train has none"):
        load_dataset(tmp_path)


def test_an_empty_list_file_is_refused(tmp_path: Path) -> None:
    (write_lists(tmp_path) / "test.txt").write_text("\n")
    with pytest.raises(DataError, match="test has no photo"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("val.txt", "val/Milk/shelf_1.jpg, 0, 0", "val.txt, line 1: there is no photo .*shelf_1.jpg, 0"),
        ("val.txt", "val/Milk/shelf_1.jpg", "val.txt, line 1: expected 'path, class id', found"),
        ("val.txt", "val/Milk/shelf_1.jpg, 2", "val.txt, line 1: class id 2 is not in labels.csv, which ends at 1"),
        ("labels.csv", "gtin,name", "labels.csv, line 1: the columns must be name"),
    ],
)
def test_list_files_may_come_with_labels_csv(tmp_path: Path, file: str, line: str, message: str) -> None:
    write_lists(tmp_path)
    (tmp_path / "classes.csv").unlink()
    (tmp_path / "labels.csv").write_text("name,gtin\nMilk,07310865004703\nJuice,\n")
    for split in ("train", "val", "test"):
        listed = (tmp_path / f"{split}.txt").read_text()
        (tmp_path / f"{split}.txt").write_text(listed.replace(", 0, 0", ", 0").replace(", 1, 1", ", 1"))
    dataset = load_dataset(tmp_path)
    assert dataset.labels == (Label(name="Milk", gtin="07310865004703"), Label(name="Juice"))
    assert (sizes(dataset), dataset.notes[0]) == (
        (12, 4, 4),
        "layout: list files train.txt, val.txt, test.txt with labels.csv",
    )
    edit_line(tmp_path / file, 1, line)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


# Class folders


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 5, "train/Juice": 6, "val/Milk": 1, "val/Juice": 2, "test/Juice": 3})
    dataset = load_dataset(tmp_path)
    assert names(dataset) == ["Juice", "Milk"]
    assert (counts(dataset.train), counts(dataset.val), counts(dataset.test)) == ({0: 6, 1: 5}, {0: 2, 1: 1}, {0: 3})
    assert dataset.held_out == dataset.test
    assert dataset.held_out_name == "test"
    assert dataset.notes == (
        "layout: one folder per product in train, val, test",
        "test has no photo of 1 of 2 products: Milk",
    )


def test_without_test_the_report_falls_on_val_and_says_so(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 5, "train/Juice": 5, "val/Milk": 2, "val/Juice": 2})
    dataset = load_dataset(tmp_path)
    assert dataset.test == ()
    assert dataset.held_out == dataset.val
    assert dataset.held_out_name == "val"
    assert any("there is no test split" in note for note in dataset.notes)


def test_a_missing_val_is_cut_from_train_and_test_is_left_alone(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 20, "train/Juice": 10, "test/Milk": 2, "test/Juice": 2})
    dataset = load_dataset(tmp_path)
    assert (counts(dataset.train), counts(dataset.val), counts(dataset.test)) == (
        {0: 8, 1: 17},
        {0: 2, 1: 3},
        {0: 2, 1: 2},
    )
    assert any("val cut from train" in note for note in dataset.notes)


@pytest.mark.parametrize("top", ["", "train/"])
def test_one_folder_is_cut_70_15_15_by_product(tmp_path: Path, top: str) -> None:
    write_folders(tmp_path, {f"{top}Milk": 40, f"{top}Juice": 20, f"{top}Oats": 7})
    dataset = load_dataset(tmp_path)
    assert counts(dataset.train) == {0: 14, 1: 28, 2: 5}
    assert counts(dataset.val) == counts(dataset.test) == {0: 3, 1: 6, 2: 1}


def test_a_cut_keeps_neighbouring_photos_together(tmp_path: Path) -> None:
    """Random photos would sit beside another split nearly everywhere; two held-out runs do so at two places."""
    dataset = load_dataset(write_folders(tmp_path, {"Milk": 40, "Juice": 40}))
    split_of = {photo.path: split for split in ("train", "val", "test") for photo in getattr(dataset, split)}
    for product in ("Milk", "Juice"):
        shelf = [split_of[tmp_path / product / f"shelf_{number}.jpg"] for number in range(1, 41)]
        assert sum(one != next_one for one, next_one in pairwise(shelf)) == 2


def test_a_cut_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 20, "Juice": 20, "Oats": 20})
    first = load_dataset(tmp_path, seed=3)
    assert load_dataset(tmp_path, seed=3) == first
    assert any(load_dataset(tmp_path, seed=seed).test != first.test for seed in range(4, 8))
    write_folders(tmp_path, {"Bread": 20})
    with_bread = load_dataset(tmp_path, seed=3)
    assert {photo.path for photo in first.test} < {photo.path for photo in with_bread.test}


def test_an_unreadable_photo_does_not_move_the_cut(tmp_path: Path) -> None:
    before = load_dataset(write_folders(tmp_path, {"Milk": 20, "Juice": 20}))
    before.train[0].path.write_bytes(b"")
    after = load_dataset(tmp_path, allow_unreadable=True)
    assert (after.train, after.val, after.test) == (before.train[1:], before.val, before.test)


def test_names_sort_as_people_count() -> None:
    assert sorted([Path("shelf_10.jpg"), Path("shelf_9.jpg"), Path("9.jpg")], key=natural_order) == [
        Path("9.jpg"),
        Path("shelf_9.jpg"),
        Path("shelf_10.jpg"),
    ]


def test_labels_csv_gives_order_gtins_and_coarse_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 8, "Juice": 8})
    (tmp_path / "labels.csv").write_text("name,gtin,coarse\nMilk,07310865004703,Dairy\nJuice,,\n")
    dataset = load_dataset(tmp_path)
    assert dataset.labels == (Label(name="Milk", gtin="07310865004703", coarse="Dairy"), Label(name="Juice"))
    assert {(photo.path.parent.name, photo.class_id) for photo in dataset.train} == {("Milk", 0), ("Juice", 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gtin,name\n", r"labels.csv, line 1: the columns must be name, gtin, coarse"),
        ("", r"labels.csv, line 1: the columns"),
        ("name\nMilk\n", r"labels.csv lacks Juice"),
        ("name\nMilk\nJuice\nBread\n", r"labels.csv, line 4: there is no folder named 'Bread'"),
        ("name,gtin\n,1\nMilk,\nJuice,\n", r"labels.csv, line 2: the product has no name"),
        ("name\nMilk\nMilk\n", r"labels.csv, line 3: Milk was given before"),
        ("name,gtin\nMilk, 1 %,123\n", r"labels.csv, line 2: expected 2 cells, found 3"),
    ],
)
def test_a_labels_csv_that_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    (write_folders(tmp_path, {"Milk": 8, "Juice": 8}) / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


def test_folders_inside_a_products_folder_belong_to_it(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 4, "Milk/visit 2/shelf B": 6, "Juice": 8})
    dataset = load_dataset(tmp_path)
    assert sum(map(len, (dataset.train, dataset.val, dataset.test))) == 18
    assert names(dataset) == ["Juice", "Milk"]


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    write_folders(tmp_path / "elsewhere", {"Milk": 8})
    write_folders(tmp_path / "data", {"Juice": 8})
    (tmp_path / "data/Milk").symlink_to(tmp_path / "elsewhere/Milk")
    (tmp_path / "data/Juice/loop").symlink_to(tmp_path / "data/Juice")
    assert sum(sizes(load_dataset(tmp_path / "data"))) == 16


def test_what_is_not_a_photo_is_counted_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 8, "Juice": 8})
    for name in ("Milk/a.HEIC", "Milk/b.heic", "Juice/c.gif", "Juice/.DS_Store", ".cache/d.jpg", "stray.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    dataset = load_dataset(tmp_path)
    assert names(dataset) == ["Juice", "Milk"]
    assert any("are not photos we read: 3 (2 .heic, 1 .gif)" in note for note in dataset.notes)
    assert any("outside any product's folder: 1, the first is" in note for note in dataset.notes)


def test_an_accented_name_is_one_product_on_every_system(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "Crème fraîche")
    write_folders(tmp_path, {unicodedata.normalize("NFD", name): 8, "Milk": 8})
    (tmp_path / "labels.csv").write_text(f"name\nMilk\n{name}\n", encoding="utf-8")
    assert names(load_dataset(tmp_path)) == ["Milk", name]


def test_one_product_in_two_spellings_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 8, "milk": 8, "Juice": 8})
    with pytest.raises(DataError, match="Milk and milk are one product in two spellings"):
        load_dataset(tmp_path)


def test_a_product_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 8, "Juice": 8})
    (tmp_path / "Juice").rename(tmp_path / os.fsdecode(b"J\xfcice"))
    with pytest.raises(DataError, match="ice: the name of a product must be UTF-8 text: rename the folder"):
        load_dataset(tmp_path)


# Photos


def test_a_truncated_jpeg_is_named_and_skipped(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 60, "train/Juice": 40, "val/Milk": 1, "val/Juice": 1})
    broken = tmp_path / "train/Milk/shelf_7.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])
    dataset = load_dataset(tmp_path)
    assert [str(error) for error in dataset.skipped] == [f"{broken}: the file is cut short"]
    assert counts(dataset.train) == {0: 40, 1: 59}
    assert broken not in {photo.path for photo in dataset.train}


def test_more_than_1_percent_unreadable_is_an_error_unless_allowed(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 60, "train/Juice": 40, "val/Milk": 1, "val/Juice": 1})
    (tmp_path / "train/Milk/shelf_7.jpg").write_bytes(b"no photo at all")
    (tmp_path / "train/Milk/broken link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"2 of 103 photos cannot be read, more than 1 % .*broken link.*shelf_7"):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, allow_unreadable=True).skipped) == 2


def test_a_product_left_with_too_few_readable_photos_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 5, "train/Juice": 5, "val/Milk": 1, "val/Juice": 1})
    (tmp_path / "train/Milk/shelf_1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"train has fewer than 5 usable photos of Milk \(4 of 5\)"):
        load_dataset(tmp_path, allow_unreadable=True)


def test_products_with_too_few_photos_are_named_up_to_five(tmp_path: Path) -> None:
    few = {f"train/Product {letter}": 2 for letter in "ABCDEFG"}
    write_folders(tmp_path, {"train/Milk": 5, "val/Milk": 1, **few})
    with pytest.raises(DataError, match=r"of Product A \(2 of 2\), .*Product E \(2 of 2\) and 2 more:"):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, min_photos=2).labels) == 8


def test_the_same_bytes_in_two_splits_are_told(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/Milk": 5, "train/Juice": 5, "val/Milk": 1, "val/Juice": 1})
    shutil.copy(tmp_path / "train/Milk/shelf_3.jpg", tmp_path / "val/Milk/copy.jpg")
    copies = [note for note in load_dataset(tmp_path).notes if "byte for byte" in note]
    assert len(copies) == 1
    assert copies[0].startswith("photos of val that are also in train, byte for byte")
    assert copies[0].endswith(f"{tmp_path / 'val/Milk/copy.jpg'} = {tmp_path / 'train/Milk/shelf_3.jpg'}")


def test_progress_counts_every_photo(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    load_dataset(write_folders(tmp_path, {"Milk": 8, "Juice": 8}), on_photo=lambda *done: reported.append(done))
    assert reported == [(number, 16) for number in range(1, 17)]


# Folders that hold nothing to train on


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_dataset(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no products"):
        load_dataset(tmp_path)


def test_a_single_product_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than two products"):
        load_dataset(write_folders(tmp_path, {"Milk": 8}))


@pytest.mark.parametrize("orphan", ["val", "test"])
def test_held_out_folders_without_train_are_not_taken_for_products(tmp_path: Path, orphan: str) -> None:
    write_folders(tmp_path, {f"{orphan}/Milk": 8, f"{orphan}/Juice": 8})
    with pytest.raises(DataError, match=f"has {orphan} but no train: add it"):
        load_dataset(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Milk": 8, "Juice": 8})
    (tmp_path / "Milk").chmod(0)
    try:
        with pytest.raises(DataError, match=r"Milk cannot be read \(Permission denied\)"):
            load_dataset(tmp_path)
    finally:
        (tmp_path / "Milk").chmod(0o755)


@pytest.mark.shared
def test_the_grocery_set_loads_whole(shared: Path) -> None:
    dataset = load_dataset(shared / "data" / "grocery-store")
    assert (len(dataset.labels), *sizes(dataset), dataset.skipped) == (81, 2640, 296, 1265, ())
    assert dataset.notes[1:] == (
        "val has no photo of 21 of 81 products: Red-Delicious, Nectarine, Papaya, Anjou, Kaiser and 16 more",
    )
