"""Potentials trained on labels by the recipe that ``nff init`` writes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io

from ..checkpoint import FILE
from ..data.dataset import AtomsDataset
from ..data.quality.diagnosis import diagnose
from ..reports.run_record import read_record
from ..storage.files import claim_folder, write_atomically
from ..train.config import TrainingConfig, load_config
from ..train.starter import config_text
from ..train.state import states
from ..train.trainer import train

DATA = "data.xyz"


def train_student(
    folder: Path,
    frames: Sequence[ase.Atoms],
    *,
    seed: int,
    length: float,
    compile: bool,
    on_step: Callable[[dict], None],
) -> Path:
    """Train on labelled frames in a folder of its own, or go on where a killed training was.

    The folder is what ``nff init data.xyz`` and ``nff train config.py`` would leave, but for the number of
    epochs, and for the split, which is the seed's.

    Args:
        frames: with energies and forces.
        length: of the training over the recipe's.
        on_step: told of every step.

    Returns:
        the checkpoint with the lowest validation loss.
    """
    record = read_record(folder)
    if record is not None and record.finished:
        return folder / FILE
    claim_folder(folder)
    begun = bool(states(folder / "state"))
    if not begun:
        write_frames(folder / DATA, frames)
        write_config(folder)
    config = _config(folder, seed, length, compile)
    return train(config, resume=begun, overwrite=not begun, on_step=on_step)


def write_config(folder: Path) -> None:
    """The config that ``nff init`` writes for the data of a folder."""
    found = diagnose(folder / DATA)
    found.raise_if_unusable()
    text = config_text(folder / DATA, folder, found, filtered=True)
    write_atomically(folder / "config.py", text.encode())


def _config(folder: Path, seed: int, length: float, compile: bool) -> TrainingConfig:
    overrides = {"random_seed": seed, "output_dir": folder, "compile": compile, "progress": False}
    config = load_config(folder / "config.py", overrides)
    epochs = max(2, round(length * config.epochs))
    changed: dict = {"epochs": epochs, "validate_every": max(1, min(config.validate_every, epochs // 10))}
    steps = epochs * -(-len(config.dataset.split["train"]) // config.batch_size)
    # An average over more than the run's last tenth would still hold weights of its beginning.
    changed["ema_decay"] = min(config.ema_decay, 1 - 1 / max(2, steps / 20))
    if config.dataset.origin["source"] is not None:
        arguments: dict[str, Any] = {**config.dataset.origin, "seed": seed}
        changed["dataset"] = AtomsDataset(**arguments)
    return config.model_copy(update=changed)


def write_frames(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Labelled frames as extended XYZ, whole or not at all."""
    text, told = io.StringIO(), []
    for frame in frames:
        told.append(frame.copy())
        told[-1].calc = frame.calc
        told[-1].info.pop("seconds", None)  # equal runs give equal bytes
    ase.io.write(text, told, format="extxyz")
    write_atomically(path, text.getvalue().encode())
