"""Workflows: one file each, a function ``(atoms, calculator, settings) -> result``."""

from pathlib import Path


def workflow_names() -> list[str]:
    """Names of all workflows: every file of this folder is one. Imports none of them."""
    return sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__"})
