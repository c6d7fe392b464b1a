"""A split never separates a group or a near-duplicate, spreads every product, and is what train reads."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.images.dataset import load_dataset
from edgebcnn.images.group_split import assign
from edgebcnn.images.layouts import read_layout
from edgebcnn.images.splitting import SplitRequest, SplitResult, split_photos
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent
from tests.blocks import QUICK, draw_blocks
from tests.typing_in import typed

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
PRODUCTS = ("Juice", "Milk", "Oats")
BY_STORE = SplitRequest(group_pattern=r"(store\d+)-")


def draw_photo(path: Path) -> None:
    """A photo that is like no other, drawn from its path."""
    rng = np.random.default_rng(list(path.as_posix().encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (24, 24, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """Three products in ten stores, three photos of each in each."""
    folder = tmp_path / "data"
    for product in PRODUCTS:
        for store in range(10):
            for number in range(3):
                draw_photo(folder / product / f"store{store}-{number}.png")
    return folder


def split(folder: Path, request: SplitRequest, name: str = "split", *, overwrite: bool = False) -> SplitResult:
    return split_photos(folder, folder.parent / name, request=request, overwrite=overwrite, reporter=Silent())


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def splits_of_stores(output: Path) -> Mapping[str, set[str]]:
    """The splits in which photos of each store are."""
    found = defaultdict(set)
    for name, photos in read_layout(output).splits.items():
        for photo in photos:
            found[photo.path.name.partition("-")[0]].add(name)
    return found


# What is promised


def test_a_group_is_never_separated(stores: Path) -> None:
    for seed in range(5):
        split(stores, SplitRequest(group_pattern=r"(store\d+)-", seed=seed), overwrite=True)
        assert [len(splits) for splits in splits_of_stores(stores.parent / "split").values()] == [1] * 10


def test_each_product_is_spread_as_was_asked(stores: Path) -> None:
    result = split(stores, BY_STORE)
    assert result.counts == {"train": (21, 21, 21), "val": (3, 3, 3), "test": (6, 6, 6)}
    assert result.groups == {"train": 7, "val": 1, "test": 2}
    assert result.labels == tuple(Label(name=name) for name in PRODUCTS)


def test_near_duplicates_join_groups(stores: Path) -> None:
    for number, other in enumerate(range(1, 7)):
        photo = cv2.resize(read_photo(stores / "Milk" / "store0-0.png"), None, fx=0.9, fy=0.9 - number / 100)
        cv2.imwrite(str(stores / "Milk" / f"store{other}-copy.jpg"), photo)
    result = split(stores, BY_STORE)
    of_store = splits_of_stores(stores.parent / "split")
    assert len({next(iter(of_store[f"store{store}"])) for store in range(7)}) == 1
    assert (result.pairs, result.leaks) == (21, 0)
    assert sum(result.groups.values()) == 4
    assert "near-duplicates joined 6 of 10 groups to others" in result.notes


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_split(stores: Path) -> None:
    for name in ("one", "two"):
        split(stores, BY_STORE, name)
    split(stores, SplitRequest(group_pattern=BY_STORE.group_pattern, seed=1), "three")
    one, two, three = (files(stores.parent / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["train.txt"] != three["train.txt"]


def test_without_groups_neighbouring_names_stay_together_and_it_is_said(stores: Path) -> None:
    result = split(stores, SplitRequest())
    assert any(note.startswith("no groups were given") for note in result.notes)
    assert result.counts == {"train": (21, 21, 21), "val": (3, 3, 3), "test": (6, 6, 6)}
    of_photo = {
        photo.path: name for name, photos in read_layout(stores.parent / "split").splits.items() for photo in photos
    }
    for product in PRODUCTS:
        ordered = [name for path, name in sorted(of_photo.items()) if path.parent.name == product]
        runs = [ordered[start : start + 3] for start in range(0, 30, 3)]
        assert all(len(set(run)) == 1 for run in runs)


def test_a_table_of_groups_does_what_a_pattern_does(stores: Path) -> None:
    table = stores.parent / "groups.csv"
    rows = [f"{path.name[:6]},{path.relative_to(stores).as_posix()}" for path in sorted(stores.rglob("*.png"))]
    table.write_text("\n".join(["group,path", *rows]))
    assert split(stores, SplitRequest(groups_file=table), "table").counts == split(stores, BY_STORE).counts
    for name in ("train.txt", "val.txt", "test.txt"):
        assert (stores.parent / "table" / name).read_bytes() == (stores.parent / "split" / name).read_bytes()


def test_the_split_reads_like_the_photos_it_was_made_of(stores: Path) -> None:
    (stores / "labels.csv").write_text("name,gtin,coarse\nOats,07310865004703,Grain\nMilk,,\nJuice,,Drinks\n")
    split(stores, BY_STORE)
    dataset = load_dataset(stores.parent / "split")
    assert dataset.labels == load_dataset(stores).labels
    photos = [photo for of in (dataset.train, dataset.val, dataset.test) for photo in of]
    assert {photo.path.resolve() for photo in photos} == set(stores.resolve().rglob("*.png"))
    assert all(photo.path.parent.name == dataset.labels[photo.class_id].name for photo in photos)


def test_a_split_can_be_split_again_and_moves_with_its_photos(stores: Path) -> None:
    split(stores, BY_STORE, "shop/first")
    again = split(stores.parent / "shop" / "first", BY_STORE, "second")
    assert sum(map(sum, again.counts.values())) == 90
    moved = stores.parent.parent / "moved"
    shutil.copytree(stores.parent, moved)
    shutil.rmtree(stores.parent)
    assert sum(map(len, read_layout(moved / "shop" / "first").splits.values())) == 90


def test_folders_behind_links_are_found_again(stores: Path) -> None:
    (stores.parent / "deep/er").mkdir(parents=True)
    (stores.parent / "link").symlink_to(stores.parent / "deep/er")
    (stores.parent / "photos").symlink_to(stores)
    split_photos(stores.parent / "photos", stores.parent / "link/split", request=BY_STORE, reporter=Silent())
    assert len(load_dataset(stores.parent / "link/split").train) == 63


@pytest.mark.slow
def test_train_takes_the_split(tmp_path: Path) -> None:
    draw_blocks(tmp_path / "data", per_product={"train": 30})
    shutil.move(tmp_path / "data" / "train", tmp_path / "photos")
    result = typed(tmp_path, "data", "split", "photos", "--output", "split", "--max-distance", 0)
    assert result.exit_code == 0, result.stderr
    assert "next:   edgebcnn train --data split" in result.stdout
    trained = typed(tmp_path, "train", "--data", "split", *QUICK, "--json")
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(trained.stdout)["n"] == 18


# What is told


def test_a_product_of_one_group_stays_in_train_and_is_named(stores: Path) -> None:
    for number in range(6):
        draw_photo(stores / "Bread" / f"store3-{number}.png")
    result = split(stores, BY_STORE)
    assert [counts[0] for counts in result.counts.values()] == [6, 0, 0]
    assert any("a single group" in note and "Bread" in note for note in result.notes)
    assert "test has no photo of 1 of 4 products: Bread" in result.notes


def test_a_product_that_train_will_refuse_is_named(stores: Path) -> None:
    for number in range(4):
        draw_photo(stores / "Bread" / f"store{number}-0.png")
    result = split(stores, BY_STORE)
    assert result.counts["train"][0] == 4
    assert "train has fewer than 5 photos of Bread (4), and will refuse them: add photos" in result.notes


def test_a_group_that_is_too_large_for_its_split_is_told(stores: Path) -> None:
    groups = [f"{path.relative_to(stores)},{max(4, int(path.name[5]))}" for path in stores.rglob("*.png")]
    (stores.parent / "groups.csv").write_text("\n".join(["path,group", *groups]))
    result = split(stores, SplitRequest(val=0.3, test=0.4, groups_file=stores.parent / "groups.csv"))
    assert result.groups == {"train": 1, "val": 2, "test": 3}
    assert (
        "train has 50 % of the photos instead of 30 %, because groups stay whole: the largest has 45 of 90 photos"
        in result.notes
    )


def test_an_unreadable_photo_is_left_out_and_named(stores: Path) -> None:
    broken = stores / "Milk" / "store0-0.png"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 90 photos cannot be read, more than 1 %"):
        split(stores, BY_STORE)
    result = split(stores, SplitRequest(group_pattern=BY_STORE.group_pattern, allow_unreadable=True))
    assert f"left out {broken}: the file is empty" in result.notes
    assert sum(map(sum, result.counts.values())) == 89


def test_the_result_is_json_and_notes_go_to_stderr(stores: Path) -> None:
    result = typed(stores.parent, "data", "split", "data", "--output", "s", "--group-pattern", r"(store\d)", "--json")
    document = json.loads(result.stdout)
    assert document["groups"] == {"train": 7, "val": 1, "test": 2}
    assert document["near_duplicate_pairs_across_splits"] == 0
    assert document["photos"]["test"] == dict.fromkeys(PRODUCTS, 6)
    assert "layout: one folder per product" in result.stderr


# What is kept


def test_no_photo_is_touched_and_a_split_is_replaced_only_when_asked(stores: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in stores.rglob("*.png")}
    split(stores, BY_STORE)
    with pytest.raises(DataError, match="holds a split already: choose another folder, or pass --overwrite"):
        split(stores, BY_STORE)
    without_test = SplitRequest(test=0, group_pattern=BY_STORE.group_pattern)
    split(stores, without_test, overwrite=True)
    assert set(files(stores.parent / "split")) == {"train.txt", "val.txt", "labels.csv", "split.json"}
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in stores.rglob("*.png")} == before


@pytest.mark.parametrize("other", ["note.txt", "train/Milk"])
def test_a_folder_that_holds_something_else_is_never_replaced(stores: Path, other: str) -> None:
    split(stores, BY_STORE)
    (stores.parent / "split" / other).mkdir(parents=True)
    with pytest.raises(DataError, match="is not a split made by edgebcnn"):
        split(stores, BY_STORE, overwrite=True)


@pytest.mark.parametrize("output", ["data", "data/split", "."])
def test_the_output_lies_beside_the_photos(stores: Path, output: str) -> None:
    with pytest.raises(DataError, match="contain each other"):
        split(stores, BY_STORE, output)


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--group-pattern", "store"), "has no group: put what names the store or visit in parentheses"),
        (("--group-pattern", "(aisle)"), "matches no photo; the first is Juice/store0-0.png"),
        (("--group-pattern", r"(store[0-8])"), "does not match 9 of 90 photos (Juice/store9-0.png, "),
        (("--group-pattern", "(store"), "is not a regular expression (missing )"),
        (("--group-pattern", r"(store)(\d)"), "has 2 groups: name the one that counts, (?P<group>…)"),
        (("--group-pattern", "([a-z])"), "nothing is left for"),
        (("--groups", "nowhere.csv"), "nowhere.csv cannot be read (No such file or directory)"),
        (("--group-pattern", "(s)", "--groups", "g.csv"), "leave out one of them"),
        (("--val", 0.6, "--test", 0.5), "val 0.6 and test 0.5 are impossible"),
        (("--val", 0), "val must be above 0"),
        (("--test", "nan"), "test 0 or more"),
    ],
)
def test_a_wrong_request_is_one_sentence(stores: Path, arguments: Sequence[object], message: str) -> None:
    result = typed(stores.parent, "data", "split", "data", "--output", "split", *arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (stores.parent / "split").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,store", "Milk/a.png,1"], "line 1: there is no column 'group'"),
        ([], "line 1: there is no column 'path'"),
        (["path,group", "Milk/store0-0.png,1", "Milk/gone.png,1"], "line 3: there is no photo 'Milk/gone.png'"),
        (["path,group", "Milk/store0-0.png"], "line 2: Milk/store0-0.png has no group"),
        (["path,group", *2 * ["Milk/store0-0.png,1"], "Milk/store0-0.png,2"], "line 4: .* was in group '1' before"),
        (["path,group", "Milk/store0-0.png,1"], r"lacks 89 of 90 photos \(Juice/store0-0.png, "),
        (["path,group", '"Milk/store0-0.png,1'], "line 2: not CSV"),
    ],
)
def test_a_wrong_table_is_named_by_line(stores: Path, lines: Sequence[str], message: str) -> None:
    table = stores.parent / "groups.csv"
    table.write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"groups.csv.*{message}"):
        split(stores, SplitRequest(groups_file=table))


@pytest.mark.parametrize("name", [os.fsdecode(b"store0-caf\xe9.png"), "store0-line\u2028break.png"])
def test_a_name_that_cannot_stand_in_a_list_is_refused(stores: Path, name: str) -> None:
    shutil.move(stores / "Milk" / "store0-0.png", stores / "Milk" / name)
    with pytest.raises(DataError, match="cannot be written to a list file"):
        split(stores, BY_STORE)
    assert not (stores.parent / "split").exists()


# The search


def spread(groups: Sequence[Mapping[int, int]], chosen: Sequence[str]) -> dict[str, Counter[int]]:
    counts = {split: Counter[int]() for split in FRACTIONS}
    for group, split_name in zip(groups, chosen, strict=True):
        counts[split_name].update(group)
    return counts


def test_stores_of_many_sizes_are_spread_within_four_points() -> None:
    """200 visits with 1-40 photos of 30 products, some frequent and some rare."""
    rng = random.Random(4)
    weights = [rng.uniform(0.2, 2) for _ in range(30)]
    groups = [Counter(rng.choices(range(30), weights, k=rng.randint(1, 40))) for _ in range(200)]
    counts = spread(groups, assign(groups, FRACTIONS, min_train=5, rng=random.Random(0)))
    totals = sum(counts.values(), Counter())
    for name, asked in FRACTIONS.items():
        assert counts[name].total() / totals.total() == pytest.approx(asked, abs=0.005)
        assert all(counts[name][product] / totals[product] == pytest.approx(asked, abs=0.04) for product in range(30))


def test_a_product_of_three_groups_is_in_every_split() -> None:
    groups = [{product: count} for product in range(20) for count in (30, 15, 5)]
    counts = spread(groups, assign(groups, FRACTIONS, min_train=5, rng=random.Random(0)))
    assert all(set(of_split) == set(range(20)) for of_split in counts.values())


def test_train_comes_first_where_photos_are_few() -> None:
    groups = [{0: 1}] * 6 + [{1: 1}] * 50
    counts = spread(groups, assign(groups, FRACTIONS, min_train=5, rng=random.Random(0)))
    assert counts["train"][0] == 5
