"""Reads a TOML file into a strict model: by name where it ships with edgebcnn, by path where it is a user's own."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgebcnn.errors import EdgebcnnError
from edgebcnn.untrusted.files import MAX_TOML_BYTES, read_bytes, toml_of

Entry = TypeVar("Entry", bound=BaseModel)

SUFFIX = ".toml"


def names(package: str) -> list[str]:
    """Names of the TOML files that come with edgebcnn in `package`, sorted."""
    files = resources.files(package).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def load(name_or_path: str, model: type[Entry], *, package: str, kind: str, error: type[EdgebcnnError]) -> Entry:
    """Reads one TOML file into a strict model.

    Args:
        name_or_path: Name of a file in `package`, or the path of any file that ends in `.toml`.
        model: What the file must hold, no key more.
        package: Where the files lie that come with edgebcnn, such as `edgebcnn._devices`.
        kind: What such a file is called in a message, such as `device profile`.
        error: What to raise.

    Raises:
        EdgebcnnError: an `error`, when there is no such file, or a key or value does not fit.
    """
    if name_or_path.endswith(SUFFIX):
        return _parse(name_or_path, _read(Path(name_or_path), kind, error), model, error)
    known = names(package)
    if name_or_path not in known:
        likely = " or ".join(get_close_matches(name_or_path, known) or known)
        raise error(f"no {kind} is called {name_or_path!r}: use {likely}, or give the path of your own {SUFFIX} file")
    file = name_or_path + SUFFIX
    return _parse(file, resources.files(package).joinpath(file).read_bytes(), model, error)


def _read(path: Path, kind: str, error: type[EdgebcnnError]) -> bytes:
    try:
        return read_bytes(path, max_bytes=MAX_TOML_BYTES)
    except OSError as reason:
        raise error(f"cannot read the {kind} {path} ({reason.strerror}): check the path") from reason


def _parse(file: str, content: bytes, model: type[Entry], error: type[EdgebcnnError]) -> Entry:
    try:
        return model.model_validate(toml_of(content))
    except ValidationError as reason:
        raise error(f"{file}, {_first_problem(reason, model)}") from reason
    except ValueError as reason:
        raise error(f"{file}: {reason}; correct it and try again") from reason


def _first_problem(reason: ValidationError, model: type[BaseModel]) -> str:
    # A misspelt field is also a missing one, and the misspelling is what helps.
    first = min(reason.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = "correct it" if len(first["loc"]) > 1 else f"the fields are {', '.join(model.model_fields)}"
        return f"field {field}: there is no such field; {known}"
    if first["type"] == "missing":
        return f"field {field} is missing: add it"
    where = f"field {field}: " if field else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}; correct it and try again"
