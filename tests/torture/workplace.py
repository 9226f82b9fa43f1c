"""A folder of copper to work in: a model, a structure, labelled data and a config that trains in a second."""

from pathlib import Path

import ase.io
from ase.build import bulk
from builders import copper

from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.models.moment import MomentConfig, MomentNetwork

CONFIG = """from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent
dataset = AtomsDataset(here / "copper.xyz", n_train=4, n_val=2)
model = MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4, cutoff=3.5))
output_dir = here / "run"
progress, epochs, batch_size, warmup_steps = False, 1, 2, 0
"""


def fill(folder: Path) -> None:
    """Write all of it."""
    model = MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4, cutoff=3.5))
    for name in (FILE, "other.safetensors"):
        save_checkpoint(folder / name, model)
    bulk("Cu", cubic=True).write(folder / "cu.xyz")
    ase.io.write(folder / "other.xyz", bulk("Cu", cubic=True))
    ase.io.write(folder / "copper.xyz", copper(6))
    (folder / "config.py").write_text(CONFIG)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
