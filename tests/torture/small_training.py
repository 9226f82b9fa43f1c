"""A training of a second: copper with EMT's labels, states saved every second step, in mid-epoch too."""

from __future__ import annotations

from pathlib import Path

import ase.io
from builders import copper

CONFIG = """
from pathlib import Path

from builders import TinyNetwork, radius_graph, tiny
from nfflr.data.dataset import AtomsDataset
from nfflr.models import registry
import torch

registry.architectures()
registry.REGISTRY[TinyNetwork.key] = TinyNetwork
here = Path(__file__).parent
dataset = AtomsDataset(here / "copper.xyz", n_train=12, n_val=4, transform=radius_graph)
model = tiny(dtype=torch.float32)
output_dir = here / "run"
progress, warmup_steps, validate_every, checkpoint_every = False, 3, 2, 2
epochs, batch_size, ema_decay, energy_weight = {epochs}, 4, 0.9, (0.2, 1.0)
{more}
"""


def write_config(folder: Path, epochs: int = 6, more: str = "", name: str = "config.py") -> Path:
    """Data and a config in a folder; three steps an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "copper.xyz").exists():
        ase.io.write(folder / "copper.xyz", copper(16))
    (folder / name).write_text(CONFIG.format(epochs=epochs, more=more))
    return folder / name
