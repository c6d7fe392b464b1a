"""Finds photos, classifies each, and counts those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgebcnn.device.classifier import Classifier, Prediction
from edgebcnn.errors import CameraError, DataError, UnreadablePhotoError
from edgebcnn.preprocessing import decode_photo, read_photo
from edgebcnn.progress import Reporter, Silent
from edgebcnn.report.agreement import Proportion
from edgebcnn.sources.files import is_pattern, photos_below, photos_like
from edgebcnn.sources.truth import photo_truth

MANY = 20  # photos that are worth a progress bar
STDIN = "-"
STDIN_PHOTO = Path("stdin")


@dataclass(frozen=True)
class PhotoPrediction:
    """One photo and its prediction.

    Attributes:
        photo: Its path; `stdin` where it came from there.
        prediction: What the model predicts.
        truth: The product that its folder is named after; None where labels were not requested or no folder names one.
    """

    photo: Path
    prediction: Prediction
    truth: str | None = None

    def as_json(self, top: int) -> dict[str, Any]:
        """The best product, and the `top` best."""
        best = [
            {"label": product.label, "gtin": product.gtin, "score": round(product.score, 6)}
            for product in self.prediction.top(top)
        ]
        truth = {} if self.truth is None else {"truth": self.truth}
        return {"photo": str(self.photo), **best[0], **truth, "top": best}


@dataclass(frozen=True)
class PhotoPredictions:
    """Predictions of several photos.

    Attributes:
        photos: In the order in which they were given.
        unreadable: Why each of the other photos could not be read.
    """

    photos: tuple[PhotoPrediction, ...]
    unreadable: tuple[UnreadablePhotoError, ...]

    @property
    def accuracy(self) -> Proportion | None:
        """Share of the labeled photos that are right; None where no photo is labeled."""
        labeled = [each for each in self.photos if each.truth is not None]
        right = sum(each.truth == each.prediction.label for each in labeled)
        return Proportion(right, len(labeled)) if labeled else None

    def as_json(self, top: int) -> dict[str, Any]:
        """Every photo with its `top` best products, those that cannot be read, and the accuracy if it is known."""
        document: dict[str, Any] = {
            "photos": [each.as_json(top) for each in self.photos],
            "unreadable": [{"photo": str(error.path), "reason": error.reason} for error in self.unreadable],
        }
        return document if self.accuracy is None else {**document, "accuracy": self.accuracy.as_json()}


def find_photos(given: Iterable[str]) -> list[Path | None]:
    """Photos that paths, folders and patterns name, each once, in their order; None stands for standard input.

    Raises:
        DataError: one of them names no photo.
    """
    found: dict[Path | None, None] = {}
    for name in given:
        found.update(dict.fromkeys([None] if name == STDIN else _photos(name)))
    return list(found)


def predict(
    classifier: Classifier,
    photos: Sequence[Path | None],
    *,
    stdin: bytes = b"",
    labeled: bool = False,
    reporter: Reporter,
) -> PhotoPredictions:
    """Classifies photos; those that cannot be read are reported and skipped.

    Args:
        classifier: The model.
        photos: From `find_photos`.
        stdin: The photo that None stands for.
        labeled: Whether folders are named after the products that their photos show.
        reporter: Receives notices and progress.

    Raises:
        DataError: none of the photos can be read, or `labeled` and no folder has a product's name.
    """
    names = [label.name for label in classifier.labels]
    truths: dict[Path | None, str | None] = {}
    if labeled:
        truths = {photo: photo_truth(photo.absolute(), names) for photo in photos if photo is not None}
    if labeled and not any(truths.values()):
        raise _no_labels(photos, names)
    done, unreadable = [], []
    with (reporter if len(photos) >= MANY else Silent()).progress("classifying photos", len(photos)) as advance:
        for photo in photos:
            try:
                image = decode_photo(stdin, STDIN_PHOTO) if photo is None else read_photo(photo)
                done.append(PhotoPrediction(photo or STDIN_PHOTO, classifier.classify(image), truths.get(photo)))
            except UnreadablePhotoError as error:
                unreadable.append(error)
                if len(photos) > 1:
                    reporter.say(f"skipped {error}")
            advance(1)
    if not done:
        what = str(unreadable[0]) if len(photos) == 1 else f"none of the {len(photos)} photos can be read"
        raise DataError(f"{what}: copy again, or convert to JPEG or PNG")
    return PhotoPredictions(tuple(done), tuple(unreadable))


def _photos(name: str) -> list[Path]:
    path = Path(name)
    try:
        if path.is_dir():
            return photos_below(path)
        if path.is_file():
            return [path]
        if is_pattern(name):
            return photos_like(name)
    except CameraError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}): check the path and its permissions") from error
    raise DataError(f"there is no photo, folder or pattern {name}: check the path")


def _no_labels(photos: Sequence[Path | None], names: Sequence[str]) -> DataError:
    folders = dict.fromkeys(photo.absolute().parent.name for photo in photos if photo is not None)
    return DataError(f"no folder of these photos has the name of a product{_closest(folders, names)}")


def _closest(folders: Iterable[str], names: Sequence[str]) -> str:
    for folder in folders:
        if close := get_close_matches(folder, names, n=1):
            return f": rename {folder}, the closest product is {close[0]}"
    return f": name them like {names[0]}, or leave out --labeled"
