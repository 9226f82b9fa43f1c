"""Workflows: one file each, a function ``(atoms, calculator, settings) -> result``."""

from pathlib import Path

NOT_WORKFLOWS = {"__init__", "archive", "attributes", "base", "batch", "contract", "scores", "spread"}


def workflow_names() -> list[str]:
    """Names of all workflows: every other file of this folder is one. Imports none of them."""
    return sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - NOT_WORKFLOWS)
