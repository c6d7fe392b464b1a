"""Packs a bundle into one zip file that any tool opens, and validates such a file before any of it is used.

Its members are stored, not compressed, without times or attributes, so that the same files are the same archive
wherever it is made. What comes in is checked before any of it is written: each name, each byte, and that there is
nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgebcnn.errors import BundleError
from edgebcnn.untrusted.files import open_file

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the first that zip knows
_UNIX, _READABLE = 3, 0o644 << 16
_ENCRYPTED = 1
_CHUNK_BYTES = 2**20


def write_archive(path: Path, contents: Mapping[str, bytes]) -> None:
    """Writes an archive, its members in the order that is given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name, _FIRST_DAY)
            member.create_system, member.external_attr = _UNIX, _READABLE
            archive.writestr(member, content)


class PackedBundle:
    """An archive, open for reading.

    Args:
        path: The file.

    Attributes:
        names: Of its members, sorted; a folder has none.

    Raises:
        BundleError: it is no zip archive, or one that may hide something: a name twice, or members that are compressed,
            encrypted, or together larger than the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open_file(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions and disk") from error
        try:
            self._archive = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            self._file.close()
            raise BundleError(
                f"{path} is not a bundle (neither a folder nor a whole zip file): copy it again, or make one with "
                "edgebcnn export"
            ) from error
        members = [member for member in self._archive.infolist() if not member.filename.endswith("/")]
        self.names = tuple(sorted(member.filename for member in members))
        if not _is_plain(members) or sum(member.file_size for member in members) > path.stat().st_size:
            self.close()
            raise BundleError(
                f"{path} is not as edgebcnn pack writes it (compressed, encrypted, or a name twice): unzip it and give "
                "the folder"
            )

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a member, part by part.

        Raises:
            FileNotFoundError: there is none of that name.
            BundleError: its content is not the one that was packed.
        """
        if name not in self.names:
            raise FileNotFoundError(2, "No such file in the archive", name)
        with self._told(name), self._archive.open(name) as member:
            while chunk := member.read(_CHUNK_BYTES):
                yield chunk

    def unpack(self, folder: Path) -> None:
        """Writes each member into a folder; that its name stays within is for the caller to know."""
        for name in self.names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                file.writelines(self.chunks(name))

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()
        self._file.close()

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
            raise BundleError(f"{self.path / name} was changed after it was packed: copy the file again") from error


def _is_plain(members: Sequence[zipfile.ZipInfo]) -> bool:
    """Whether each name is there once, and nothing hides its size."""
    stored = all(each.compress_type == zipfile.ZIP_STORED and not each.flag_bits & _ENCRYPTED for each in members)
    return stored and len({each.filename for each in members}) == len(members)
