"""The predictions of edge and full model for each frame of a sample: `answers.json`, written by an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebcnn.atomic import write_json
from edgebcnn.errors import DataError
from edgebcnn.loop.reading import Text
from edgebcnn.untrusted.files import read_bytes

ANSWERS_NAME = "answers.json"


class Answer(BaseModel):
    """The predictions of both models for one frame.

    Attributes:
        id: Id of the frame.
        edge: Product that the edge model predicted on the device.
        edge_score: Its probability.
        full: Product that the full model predicts.
        full_score: Its probability.
        full_margin: `full_score` minus the probability of the second-best product.
        time: When the frame arrived, ISO 8601 in UTC.
        source: Name of its source.
        photo: Path within the folder, for photos.
        truth: Actual product, where the source provides it.
        shelf: Shelf of the slot that the frame shows, where slots are watched; missing in older audits.
        slot: Name of that slot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(pattern=r"^[0-9a-f]+-[0-9]+$")
    edge: str
    edge_score: float
    full: str
    full_score: float
    full_margin: float
    time: str
    source: Text
    photo: Text | None
    truth: str | None
    shelf: Text | None = None
    slot: Text | None = None

    @property
    def agrees(self) -> bool:
        """Whether both models predict the same product."""
        return self.edge == self.full


class AnswersFile(BaseModel):
    """`answers.json`.

    Attributes:
        schema_version: Version of this file.
        bundle: Digest of the bundle that ran.
        labels: Names of its products, in the order of class ids.
        answers: Predictions for each frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    bundle: str
    labels: tuple[str, ...]
    answers: tuple[Answer, ...]


def write_answers(audit: Path, answers: AnswersFile) -> None:
    """Writes `answers.json`.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(audit / ANSWERS_NAME, answers.model_dump(mode="json"))


def read_answers(audit: Path) -> AnswersFile:
    """Reads `answers.json`.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    file = audit / ANSWERS_NAME
    try:
        return AnswersFile.model_validate_json(read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{audit} is not an audit (no {ANSWERS_NAME}): run edgebcnn audit first") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): allow reading it, or audit again") from error
    except ValidationError as error:
        raise DataError(f"{file} is damaged or of another version: audit again") from error
