"""A checkpoint for tests of commands that need some potential, whatever it predicts."""

from __future__ import annotations

from pathlib import Path

from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.models.moment import MomentConfig, MomentNetwork


def save_silicon(folder: Path) -> Path:
    """Save a small untrained network for silicon; return its file."""
    path = folder / FILE
    save_checkpoint(path, MomentNetwork(MomentConfig(elements=("Si",), channels=4, hidden=4)))
    return path
