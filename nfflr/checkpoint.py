"""The checkpoint file: safetensors with canonical JSON metadata and a digest over every other byte.

Loading executes nothing: no pickle, no import of a name found in the file.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import resources
from pathlib import Path

import ase
import numpy as np
import torch
from pydantic import ValidationError

from . import __version__
from .errors import CheckpointError, ConfigError, ResourceError, did_you_mean
from .files import write_atomically
from .models.base import Potential, PotentialConfig, architecture
from .sealed import Damaged, Foreign, read_metadata, seal, unseal

FORMAT, VERSION = "nfflr-checkpoint", 1
FILE = "model.safetensors"
UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "length": "Å"}
STRESS_CONVENTION = "(1/V) dE/dstrain, tension positive"


def save_checkpoint(
    path: str | Path,
    model: Potential,
    *,
    data_digest: str | None = None,
    scores: dict[str, float] | None = None,
    notes: dict[str, str] | None = None,
) -> str:
    """Write ``model`` to ``path`` so that the file is either whole or absent; return its digest.

    Args:
        path: the file, ``model.safetensors`` in a run folder.
        model: a registered architecture.
        data_digest: ``AtomsDataset.digest()`` of what it was trained on.
        scores: validation scores by name.
        notes: free text (citation, licence of the data).

    Raises:
        ResourceError: the file cannot be written.
    """
    metadata = {
        "architecture": model.key,
        "hyperparameters": model.config.model_dump(mode="json"),
        "elements": list(model.elements),
        "cutoff": model.cutoff,
        "reference_energies": dict(zip(model.elements, model.reference_energies.tolist(), strict=True)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "units": UNITS,
        "stress_convention": STRESS_CONVENTION,
        "data_digest": data_digest,
        "scores": scores or {},
        "notes": notes or {},
        "versions": library_versions(),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = pack(tensors, metadata)
    write_atomically(Path(path), content)
    return read_metadata(content, FORMAT, VERSION)["sha256"]


def load_checkpoint(source: str | Path) -> tuple[Potential, dict]:
    """Build the model of a checkpoint, in eval mode on the CPU, and return it with the metadata.

    Args:
        source: a file, a run folder, or the name of a bundled calculator.

    Raises:
        ConfigError: there is no such file, folder or name.
        CheckpointError: the file is damaged, not a checkpoint, of a newer format, or does not fit the
            architecture it names.
    """
    path = find_checkpoint(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
    tensors, metadata = unpack(content, str(path))
    _check_metadata(metadata, str(path))
    try:
        cls = architecture(metadata["architecture"])
        config = cls.Config(**metadata["hyperparameters"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: hyper-parameter {field!r} is wrong ({first['msg']})") from error
    dtype = getattr(torch, metadata["dtype"])
    _check_tensors(cls, config, dtype, tensors, path)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn only to be overwritten
        model = cls(config).to(dtype)
    model.load_state_dict(tensors, strict=True)
    return model.eval(), metadata


def _check_tensors(
    cls: type[Potential], config: PotentialConfig, dtype: torch.dtype, tensors: dict, path: Path
) -> None:
    try:
        with torch.device("meta"):  # shapes without memory: the file may ask for any size
            expected = cls(config).to(dtype).state_dict()
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:  # sizes that torch cannot hold
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: hyper-parameters describe no model that fits ({reason})") from error
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "is not part of the architecture"
        raise CheckpointError(f"{path}: tensor {name!r} {what}; the file and the code do not fit")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(value.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {value.dtype}, expected {expected[name].dtype}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite; retrain")


def pack(tensors: dict[str, torch.Tensor], metadata: dict, kind: str = FORMAT) -> bytes:
    """Bytes of a safetensors file whose metadata carry the SHA-256 of all other bytes."""
    return seal(tensors, metadata, kind, VERSION)


def unpack(content: bytes, name: str, kind: str = FORMAT) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of ``pack``'s bytes, after every check.

    Raises:
        CheckpointError: with the reason.
    """
    try:
        return unseal(content, kind, VERSION)
    except Foreign as error:
        raise CheckpointError(
            f"{name}: not a checkpoint; expected a {FILE} written by nff train "
            "(pickled .pt files are never loaded)"
        ) from error
    except Damaged as error:
        raise CheckpointError(f"{name}: {error}") from error


def _check_metadata(metadata: dict, name: str) -> None:
    needed = {"architecture": str, "hyperparameters": dict, "dtype": str}
    for key, kind in needed.items():
        if not isinstance(metadata.get(key), kind):
            raise CheckpointError(f"{name}: metadata lack {key!r}; not a complete checkpoint")
    if metadata["dtype"] not in ("float32", "float64"):
        raise CheckpointError(f"{name}: dtype {metadata['dtype']!r}; expected float32 or float64")


def bundled_calculators() -> dict[str, Path]:
    """Folders of the calculators that ship with the package, by name."""
    try:
        root = Path(str(resources.files("nfflr.calculators")))
    except ModuleNotFoundError:  # run from a source tree that is not installed
        root = Path(__file__).parent.parent / "calculators"
    return {p.name: p for p in sorted(root.iterdir()) if (p / "card.yaml").is_file()}


def find_checkpoint(source: str | Path) -> Path:
    """The file behind a file name, a run folder, or the name of a bundled calculator.

    Raises:
        ConfigError: nothing of the kind exists.
    """
    path = Path(source)
    with suppress(OSError, ValueError):  # a name that no file can have is looked up among the bundled ones
        for candidate in (path, path / FILE):
            if candidate.is_file():
                return candidate
    bundled = bundled_calculators()
    if str(source) in bundled and (bundled[str(source)] / FILE).is_file():
        return bundled[str(source)] / FILE
    if os.path.isdir(path):
        raise ConfigError(f"{path}: the folder holds no {FILE}; give a run folder or a checkpoint file")
    raise ConfigError(
        f"{source}: no such checkpoint; expected a file, a run folder, or one of "
        f"{', '.join(bundled) or 'the bundled calculators (none here)'}{did_you_mean(str(source), bundled)}"
    )


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "nfflr": __version__,
        "torch": torch.__version__,
        "ase": ase.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
