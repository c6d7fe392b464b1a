"""Compiles `stub_delegate.c` to the delegate that a test wants."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from edgebcnn.device.profile import DeviceProfile, ExternalDelegate

SOURCE = Path(__file__).with_suffix(".c")
WHOLE = "-DTAKES=99"


def compiled(folder: Path, *flags: str, source: Path = SOURCE) -> DeviceProfile:
    """The profile of a delegate that is compiled with those flags into a new folder below `folder`."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stub delegates need gcc")
    library = Path(tempfile.mkdtemp(dir=folder)) / "libstub.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", *flags, "-o", library, source, "-lm"], check=True)
    return using(library)


def using(library: Path | str) -> DeviceProfile:
    """The profile of a delegate."""
    return DeviceProfile(
        name="stub",
        description="A delegate that was made for a test.",
        runtime="litert",
        delegate="external",
        threads=1,
        precision="float32",
        external=ExternalDelegate(library=str(library)),
    )
