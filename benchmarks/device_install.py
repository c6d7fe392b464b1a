"""Measures the size of a device's installation and the time until its first prediction.

    python benchmarks/device_install.py BUNDLE

A new environment gets the base package of this checkout from the package index. Its size is what it takes up on the
disk, pip included. Then `edgebcnn run` reads one photo, again and again: from the start of the process, which checks
every byte of the bundle and loads the model, to the line with the product. CPU time, of the whole process, is what
other work on the machine does not stretch.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import cv2

from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.device.classifier import preferred_precision
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import EdgebcnnError

ROOT = Path(__file__).parents[1]
LARGEST = 5  # packages to name


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=Path("runs/latest/bundle"))
@click.option("--repeats", default=9, type=click.IntRange(1), help="Starts to time, after one that is not.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(bundle: Path, repeats: int, as_json: bool) -> None:
    """Installs what a device gets into a new environment, and measures it."""
    try:
        opened = open_bundle(bundle.resolve())
        with tempfile.TemporaryDirectory(prefix="edgebcnn-install-") as name:
            folder = Path(name)
            site = installed(folder / "venv")
            document = sizes(folder / "venv", site) | {"first_prediction_s": starts(opened, folder, repeats)}
    except EdgebcnnError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json_bytes(document).decode(), nl=False)
        return
    largest = ", ".join(f"{name} {size:.0f}" for name, size in document["largest_mb"].items())
    first = document["first_prediction_s"]
    click.echo(f"on disk:           {document['on_disk_mb']:.0f} MB ({largest})")
    click.echo(
        f"first prediction:  {first['median']:.2f} s after the start ({first['lowest']:.2f}-{first['highest']:.2f}, "
        f"{first['n']} starts; {first['cpu']:.2f} s of CPU time until the end)"
    )


def installed(venv: Path) -> Path:
    """Makes the environment; its `site-packages`."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # modules that were removed since would be packed again
    click.echo("Installing the base package", err=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip_install = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT]
    subprocess.run(pip_install, check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    return site


def sizes(venv: Path, site: Path) -> dict[str, Any]:
    """Megabytes on the disk, of everything and of the largest packages."""
    packages = {package.name: megabytes(package) for package in site.iterdir() if package.is_dir()}
    largest = sorted(packages, key=lambda name: -packages[name])[:LARGEST]
    return {
        "on_disk_mb": round(megabytes(venv), 1),
        "largest_mb": {name: round(packages[name], 1) for name in largest},
    }


def megabytes(folder: Path) -> float:
    """What the files of a folder take up on the disk, in blocks."""
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*")) / 1e6


def starts(bundle: Bundle, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds from the start of `edgebcnn run` to its first product, of several starts."""
    golden = read_golden(bundle, preferred_precision(bundle))
    photo = folder / "photos" / "photo.png"
    photo.parent.mkdir()
    cv2.imwrite(str(photo), cv2.cvtColor(golden.pixels[0], cv2.COLOR_RGB2BGR))
    command = [folder / "venv/bin/edgebcnn", "run", "--bundle", bundle.path, "--camera", photo.parent]
    seconds_to_a_line(command, folder)
    cpu_s = _cpu_s()
    seconds = [seconds_to_a_line(command, folder) for _ in range(repeats)]
    return {
        "n": repeats,
        "cpu": round((_cpu_s() - cpu_s) / repeats, 3),
        "median": round(statistics.median(seconds), 3),
        "lowest": round(min(seconds), 3),
        "highest": round(max(seconds), 3),
    }


def _cpu_s() -> float:
    """CPU time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_to_a_line(command: list[Any], folder: Path) -> float:
    """From the start of a process to the first line that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    started_s = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        taken_s = time.monotonic() - started_s
        process.stdout.read()
    if process.returncode or not first:
        raise click.ClickException(f"edgebcnn run ended with exit code {process.returncode} and named no product")
    return taken_s


if __name__ == "__main__":
    main()
