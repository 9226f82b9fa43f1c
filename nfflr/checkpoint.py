"""The checkpoint file: a model's weights and all that is needed to build it and to know where it is from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import numpy as np
import torch
from pydantic import ValidationError

from . import __version__
from .cards import KEY, Domain
from .checkpoint_files import (
    DTYPES,
    FILE,
    FORMAT,
    VERSION,
    check_metadata,
    find_checkpoint,
    find_members,
    find_run,
    read_content,
    reasons,
    sources_of,
    terms_of,
)
from .errors import CheckpointError, ConfigError, NumericsError, plain_reason
from .models.base import Potential
from .models.committee import Committee
from .models.construction import build_model
from .models.registry import architecture
from .quantities import Quantity, from_description, further
from .storage.files import write_atomically
from .storage.sealed import read_metadata, seal, unseal

__all__ = [
    "FILE",
    "FORMAT",
    "VERSION",
    "check_targets",
    "find_checkpoint",
    "find_members",
    "find_run",
    "library_versions",
    "load_checkpoint",
    "load_model",
    "pack",
    "save_checkpoint",
    "sources_of",
    "terms_of",
    "unpack",
    "upgraded",
]

UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "length": "Å"}
TARGET_KEYS = {"regression": {"kind"}, "class": {"kind", "classes"}}
# From each earlier version of the format, what makes the next one of it: a pure function of the contents
# {"metadata": …, "tensors": …}. There is none yet: the first format is the current one.
UPGRADES: dict[int, Callable[[dict], dict]] = {}
STRESS_CONVENTION = "(1/V) dE/dstrain, tension positive"


def save_checkpoint(
    path: str | Path,
    model: Potential,
    *,
    data_digest: str | None = None,
    scores: dict[str, float] | None = None,
    notes: dict[str, str] | None = None,
    targets: dict[str, dict] | None = None,
    outputs: Sequence[Quantity] | None = None,
    domain: Domain | None = None,
) -> str:
    """Write ``model`` to ``path`` so that the file is either whole or absent; return its digest.

    Args:
        path: the file, ``model.safetensors`` in a run folder.
        model: a registered architecture.
        data_digest: ``AtomsDataset.digest()`` of what it was trained on.
        scores: validation scores by name.
        notes: free text (citation, licence of the data).
        targets: of a property model, what each output is: name → ``{"kind": "regression"}`` or
            ``{"kind": "class", "classes": [labels in the order of the scores]}``.
        outputs: what a potential returns, with the classes that its data name; default: ``model.outputs``.
            The file keeps those that do not follow from its energies.
        domain: compositions that it was trained on, about others of which a calculator gives a note.

    Raises:
        ConfigError: the model is no registered architecture, neither in float32 nor in float64, or the
            targets do not fit its outputs.
        NumericsError: a weight is not finite.
        CheckpointError: the weights are not those of the model's hyper-parameters.
        ResourceError: the file cannot be written.
    """
    if not isinstance(model, Potential) or not model.key:
        raise ConfigError(
            f"{type(model).__name__}: cannot be saved; expected one model of a registered architecture"
        )
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigError(f"{path}: the model is {dtype}; expected {' or '.join(DTYPES)}, convert it first")
    metadata = {
        "architecture": model.key,
        "hyperparameters": model.config.model_dump(mode="json"),
        "elements": list(model.elements),
        "cutoff": model.cutoff,
        "dtype": dtype,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data_digest": data_digest,
        "scores": scores or {},
        "notes": notes or {},
        "versions": library_versions(),
        **(_energy_metadata(model) if model.is_potential else {"units": {"length": "Å"}}),
    }
    if domain is not None:
        metadata[KEY] = domain.model_dump(mode="json")
    others = further(model.outputs if outputs is None else outputs) if model.is_potential else ()
    if others:
        metadata["outputs"] = [output.described() for output in others]
    if targets is not None:
        check_targets(targets, model)
        metadata["targets"] = targets
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise NumericsError(f"{path}: {name!r} is not finite, so the model is not saved; train it anew")
    build_model(type(model), model.config, model.dtype, tensors, Path(path))  # else it could not be read
    content = pack(tensors, metadata)
    write_atomically(Path(path), content)
    return str(read_metadata(content, FORMAT, VERSION)["sha256"])


def _energy_metadata(model: Potential) -> dict:
    references = model.reference_energies.tolist()
    return {
        "reference_energies": dict(zip(model.elements, references, strict=True)),
        "units": UNITS,
        "stress_convention": STRESS_CONVENTION,
    }


def check_targets(targets: dict[str, dict], model: Potential) -> None:
    """See that a description of outputs, as ``save_checkpoint`` takes it, fits the model.

    Raises:
        ConfigError: it does not.
    """
    if model.is_potential:
        raise ConfigError("targets: the model is a potential; its outputs need no description")
    sizes = getattr(model.config, "output_features", None)
    if not isinstance(targets, dict) or (isinstance(sizes, int) and len(targets) != 1):
        raise ConfigError("targets: expected a dict with one entry for each output of the model")
    if isinstance(sizes, dict) and sizes.keys() != targets.keys():
        raise ConfigError(f"targets: got {sorted(targets)}; the model predicts {sorted(sizes)}")
    for name, target in targets.items():
        kind = target.get("kind") if isinstance(target, dict) else None
        if kind not in ("regression", "class") or target.keys() != TARGET_KEYS[kind]:
            raise ConfigError(
                f"targets: {name!r} should be {{'kind': 'regression'}} or {{'kind': 'class', 'classes': […]}}"
            )
        size = sizes[name] if isinstance(sizes, dict) else sizes
        classes = target.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(c, str | int) for c in classes):
            raise ConfigError(f"targets: the classes of {name!r} should be a list of texts or integers")
        if kind == "class" and size not in (None, len(classes)):
            raise ConfigError(
                f"targets: {name!r} has {len(classes)} classes and {size} scores; expected equal"
            )


def check_declared(described: list[dict], model: Potential) -> None:
    """See that a potential returns the further quantities that its checkpoint describes.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(described, list) or not all(isinstance(item, dict) for item in described):
        raise ConfigError("outputs: expected a list of quantities, each with a name and a shape")
    described_shapes = {q.name: q.array_shape(1) for q in map(from_description, described)}
    own_shapes = {q.name: q.array_shape(1) for q in further(model.outputs)} if model.is_potential else {}
    if described_shapes != own_shapes and described:
        raise ConfigError(
            f"outputs: got {described_shapes}; the architecture returns {own_shapes} (shapes for one atom); "
            "use the version of it that wrote the file"
        )


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
    content = read_content(path)
    tensors, metadata = upgraded(*unpack(content, str(path), oldest=min(UPGRADES, default=VERSION)))
    check_metadata(metadata, str(path))
    try:
        cls = architecture(metadata["architecture"])
        config = cls.Config(**{**cls.Config.earlier, **metadata["hyperparameters"]})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path}: hyper-parameter {field!r} is wrong ({plain_reason(first)})"
        ) from error
    model = build_model(cls, config, getattr(torch, metadata["dtype"]), tensors, path)
    model.load_state_dict(tensors, strict=True)
    try:
        if "targets" in metadata:
            check_targets(metadata["targets"], model)
        check_declared(metadata.get("outputs") or [], model)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval(), metadata


def load_model(source: str | Path | Sequence[str | Path]) -> tuple[Potential | Committee, dict]:
    """As ``load_checkpoint``, and a committee of several: a list, ``"a,b,c"``, or a folder with members.

    Raises:
        ConfigError, CheckpointError: see there; or a committee has one member, or members that do not fit.

    Example:
        >>> model, _ = load_model("mlearn-si")
        >>> model.elements, model.cutoff  # Å
        (('Si',), 5.0)
    """
    names: Sequence[str | Path] = sources_of(source)
    if isinstance(source, str | Path) and len(names) == 1:
        source = find_run(source)
        members = find_members(source)
        if len(members) < 2:
            return load_checkpoint(source)
        names = members
    loaded = [load_checkpoint(name) for name in names]
    metadata = [description for _, description in loaded]
    digests = [description["sha256"] for description in metadata]
    return Committee([model for model, _ in loaded]), {"members": metadata, "sha256": digests}


def upgraded(tensors: dict[str, torch.Tensor], metadata: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """Contents of a checkpoint of any version that is read, as the current version has them."""
    contents = {"metadata": metadata, "tensors": tensors}
    for version in range(metadata["version"], VERSION):
        contents = UPGRADES[version](contents)
    return contents["tensors"], {**contents["metadata"], "version": VERSION}


def pack(tensors: dict[str, torch.Tensor], metadata: dict, kind: str = FORMAT) -> bytes:
    """Bytes of a safetensors file whose metadata carry the SHA-256 of all other bytes."""
    return seal(tensors, metadata, kind, VERSION)


def unpack(
    content: bytes, name: str, kind: str = FORMAT, oldest: int | None = None
) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of ``pack``'s bytes, after every check; of an old version as they are there.

    Raises:
        CheckpointError: with the reason.
    """
    with reasons(name):
        return unseal(content, kind, VERSION, oldest)


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "nfflr": __version__,
        "torch": torch.__version__,
        "ase": ase.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
