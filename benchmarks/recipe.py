"""Measures the accuracy of the full, the compact and an average-pooling model over several seeds of one recipe.

    python benchmarks/recipe.py --data DIR [--weights FILE] [--seeds 0,1,2] [-- FLAGS OF TRAIN]

For each seed, `edgebcnn train --fit-on train+val` makes the full and the compact model, and `edgebcnn compress
--to gap` puts plain average pooling on the same full model's backbone, in the same epochs, at the same rates, from
the same teacher. Test photos are read once, at the end. What was stopped goes on when the same is typed again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from edgebcnn.atomic import write_json
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.history import read_history
from edgebcnn.train.run_folder import RECORD_NAME, read_record

MODELS = ("full", "compact", "gap")
SECONDS_NAME = "seconds.json"


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Photos with train, val and test.")
@click.option("--weights", default="imagenet", help="Where the backbone starts.")
@click.option("--seeds", default="0,1,2", help="One run each.")
@click.option("--runs", type=click.Path(path_type=Path), default="runs/recipe", help="Folder that holds the runs.")
@click.option("--without-gap", is_flag=True, help="Leave out average pooling.")
@click.argument("flags", nargs=-1)
def main(data: Path, weights: str, seeds: str, runs: Path, without_gap: bool, flags: tuple[str, ...]) -> None:
    """Trains once for each seed and prints accuracies on the test photos."""
    rows = []
    for seed in map(int, seeds.split(",")):
        run = runs / f"seed-{seed}"
        start = ["--data", data, "--weights", weights, "--seed", seed, "--fit-on", "train+val", *flags]
        row = {"seed": seed, **trained(run, start)}
        rows.append(row if without_gap else {**row, **with_average_pooling(run, seed)})
        write_json(runs / "recipe.json", {"flags": flags, "runs": rows})
        curves(runs).savefig(runs / "recipe.png", dpi=120)
    Console().print(table(rows))


def trained(run: Path, flags: Sequence[Any]) -> dict[str, Any]:
    """Trains a run, or goes on with it, and says what it reached."""
    where = ["--runs", run.parent, "--name", run.name]
    if not is_finished(run):
        typed(run, "train", *where, *(["--resume"] if (run / RECORD_NAME).is_file() else flags))
    metrics = json.loads((run / "metrics.json").read_text())
    right = {model["name"]: model["accuracy"] for model in metrics["models"]}
    return {
        "seconds": round(seconds_of(run)),
        **{name: {"accuracy": right[name], "head": metrics["parameters"][name]["head"]} for name in MODELS[:2]},
        "agreement": metrics["pairs"][0]["agreement"],
    }


def with_average_pooling(run: Path, seed: int) -> dict[str, Any]:
    """The same with average pooling in the place of the compact head."""
    config, made = read_record(run).config, run.with_name(f"{run.name}-gap")
    if not is_finished(made):
        typed(made, "compress", run, "--to", "gap", "--name", made.name, *as_trained(config), "--seed", seed)
    metrics = json.loads((made / "metrics.json").read_text())
    right = next(model["accuracy"] for model in metrics["models"] if model["name"] == "compact")
    gap = {"accuracy": right, "head": metrics["parameters"]["compact"]["head"]}
    return {"gap": gap, "gap_seconds": round(seconds_of(made))}


def is_finished(run: Path) -> bool:
    """Whether a run is there and needs nothing more."""
    return (run / RECORD_NAME).is_file() and read_record(run).state == "finished"


def as_trained(config: TrainConfig) -> list[Any]:
    """The flags of `compress` under which it does what `train` does."""
    head, finetune = config.compact_head, config.compact_finetune
    keys = {f"distillation.{name}": getattr(config, name) for name in ("distil_share", "temperature", "dropout")}
    keys |= {"distillation.head_rate": head.head_rate, "distillation.backbone_rate": finetune.backbone_rate}
    keys |= {"photos.copies": config.copies}
    flags: list[tuple[str, Any]] = [("--config", f"{key} = {value!r}") for key, value in keys.items()]
    flags += [("--batch-size", config.batch_size), ("--distil-epochs", head.epochs)]
    flags += [("--finetune-epochs", finetune.epochs)]
    return [part for flag in flags for part in flag]


def typed(made: Path, *arguments: Any) -> None:
    """Runs a command, which may be stopped, and adds the seconds that it took to those of the run that it makes."""
    started_s = time.monotonic()
    try:
        subprocess.run([sys.executable, "-m", "edgebcnn", *map(str, arguments)], check=True, stdout=sys.__stderr__)
    finally:
        if made.is_dir():
            write_json(made / SECONDS_NAME, seconds_of(made) + time.monotonic() - started_s)


def seconds_of(run: Path) -> float:
    """All seconds that a run took, over all commands that went on with it."""
    file = run / SECONDS_NAME
    return float(json.loads(file.read_text())) if file.is_file() else 0.0


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Accuracies in percent, a row for each seed, and their means."""
    models = [name for name in MODELS if name in rows[0]]
    n = rows[0]["full"]["accuracy"]["n"]
    result = Table(title=f"{n} test photos, accuracy in %")
    for column in ("seed", *(f"{name} ({rows[0][name]['head']:,})" for name in models), "agreement", "minutes"):
        result.add_column(column, justify="right")
    for row in rows:
        accuracies = [row[name]["accuracy"]["value"] for name in models]
        shares = [f"{100 * value:.2f}" for value in (*accuracies, row["agreement"]["value"])]
        result.add_row(str(row["seed"]), *shares, f"{row['seconds'] / 60:.0f}")
    means = [100 * mean(row[name]["accuracy"]["value"] for row in rows) for name in models]
    result.add_section()
    result.add_row("mean", *(f"{value:.2f}" for value in means), "", "")
    return result


def curves(runs: Path) -> Any:
    """Loss and accuracy on train of every run in the folder, epoch by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 2)
    for run in sorted(path.parent for path in runs.glob(f"seed-?/{RECORD_NAME}")):
        for row, role in zip(panels, ("full", "compact"), strict=True):
            epochs = [epoch for epoch in read_history(run) if epoch.role == role]
            for panel, quantity, unit in zip(row, ("loss", "accuracy"), ("nats", "share"), strict=True):
                panel.plot(range(1, len(epochs) + 1), [getattr(e, quantity) for e in epochs], label=run.name)
                panel.set(title=f"{role} model", xlabel="epoch", ylabel=f"{quantity} on train ({unit})")
                panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
