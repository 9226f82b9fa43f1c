"""The models that CONTRIBUTING.md and tutorial 7 show, as classes by key."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from nfflr.models.base import Potential, PotentialConfig
from nfflr.models.registry import REGISTRY, register
from nfflr.nn.radial import bessel

ROOT = Path(__file__).parents[1]


def documented_models() -> dict[str, type[Potential]]:
    """What the documents register, taken out of the registry again."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tutorial = (ROOT / "tutorials" / "7_bring_your_own_model.py").read_text("utf-8")
    sources = [
        re.search(r"```python\n(from pydantic.*?)```", contributing, re.DOTALL)[1],
        re.search(r"^(class \w+Config.*?)^def new_model", tutorial, re.DOTALL | re.MULTILINE)[1],
    ]
    names = {"Field": Field, "Potential": Potential, "PotentialConfig": PotentialConfig, "register": register}
    names |= {"torch": torch, "nn": nn, "bessel": bessel}
    before = set(REGISTRY)
    for source in sources:
        exec(source, {**names, "__name__": "documented"})
    return {key: REGISTRY.pop(key) for key in set(REGISTRY) - before}
