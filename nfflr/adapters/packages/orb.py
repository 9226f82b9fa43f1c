"""Orb (Rhodes et al., arXiv:2504.06231): the published models by name, with their files beside the user's."""

from __future__ import annotations

import inspect
from pathlib import Path

from ...errors import CheckpointError, ConfigError, did_you_mean
from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA, MODELS = "orb-models", "orb_models", "orb", None
DTYPES = ("float32", "float64")
FILE = "expected orb:<name>, orb:<file> with the name it was published under, or orb:<name>:<file>"


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """Weights alone, read without unpickling; the architecture is the package's of that name."""
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    urls = {
        name: str(inspect.signature(make).parameters["weights_path"].default)
        for name, make in ORB_PRETRAINED_MODELS.items()
    }
    name, file = _find(argument, urls)
    precision = "float64" if dtype == "float64" else "float32-highest"
    make = ORB_PRETRAINED_MODELS[name]
    model = make(weights_path=str(file), device=device, precision=precision, compile=False)
    calculator = ORBCalculator(model, device=device)
    offered = {"free_energy", *calculator.implemented_properties}
    return Peer(
        calculator,
        dtype=dtype or "float32",
        cutoff=float(model.system_config.radius),
        properties=tuple(p for p in ("energy", "free_energy", "forces", "stress") if p in offered),
        weights=(file,),
        ambient=dtype or "float32",
    )


def _find(argument: str, urls: dict[str, str]) -> tuple[str, Path]:
    """The model's name and the file of its weights."""
    name, _, path = argument.partition(":")
    if Path(name).is_file():
        published = {Path(url).name: model for model, url in urls.items()}
        if Path(name).name not in published:
            raise ConfigError(f"orb:{argument}: the name does not say which model it is; {FILE}")
        return published[Path(name).name], Path(name)
    if name not in urls:
        hint = did_you_mean(name, urls) or f"; the names: {', '.join(urls)}"
        raise ConfigError(f"orb:{argument}: no such file or model; {FILE}{hint}")
    file = Path(path or Path(urls[name]).name)
    if not file.is_file():
        raise CheckpointError(f"orb:{argument}: no such file; download {urls[name]} and put it at {file}")
    return name, file
