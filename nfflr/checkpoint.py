"""The checkpoint file: a model's weights and all that is needed to build it and to know where it is from."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from pydantic import ValidationError
from torch.overrides import TorchFunctionMode

from . import __version__
from .cards import bundled_calculators
from .domain import KEY, Domain
from .errors import CheckpointError, ConfigError, NumericsError, ResourceError, did_you_mean, plain_reason
from .files import write_atomically
from .models.base import Potential, PotentialConfig, architecture
from .models.ensemble import Ensemble
from .sealed import MAX_HEADER, Damaged, Foreign, is_sealed, read_metadata, seal, unseal
from .structures.kinds import CHECKPOINT, DATA, FOREIGN, OTHERS, STRUCTURE, kind_of

FORMAT, VERSION = "nfflr-checkpoint", 1
FILE, RUN = "model.safetensors", "run"  # in the folder of a run; of a run, where nff init puts it
MEMBER = re.compile(r"member-(\d+)\.safetensors")
UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "length": "Å"}
DTYPES = ("float32", "float64")
NOT_CHECKPOINTS = {DATA, STRUCTURE, *OTHERS} - {CHECKPOINT, FOREIGN}
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
        domain: compositions that it was trained on, about others of which a calculator gives a note.

    Raises:
        ConfigError: the model is no registered architecture, neither in float32 nor in float64, or the
            targets do not fit its outputs.
        NumericsError: a weight is not finite.
        CheckpointError: the weights are not those of the model's hyper-parameters.
        ResourceError: the file cannot be written.
    """
    if not isinstance(model, Potential) or not hasattr(model, "key"):
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
        "data_digest": data_digest,
        "scores": scores or {},
        "notes": notes or {},
        "versions": library_versions(),
        **(_energy_metadata(model) if model.is_potential else {"units": {"length": "Å"}}),
    }
    if domain is not None:
        metadata[KEY] = domain.model_dump(mode="json")
    if targets is not None:
        check_targets(targets, model)
        metadata["targets"] = targets
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise NumericsError(f"{path}: {name!r} is not finite, so the model is not saved; train it anew")
    _check_tensors(type(model), model.config, model.dtype, tensors, Path(path))
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
        with open(path, "rb") as file:
            start = file.read(8 + MAX_HEADER)
        foreign = not is_sealed(start, FORMAT)  # a file of another kind may be larger than memory
        content = start if foreign else path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
    tensors, metadata = upgraded(*unpack(content, str(path), oldest=min(UPGRADES, default=VERSION)))
    _check_metadata(metadata, str(path))
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
    dtype = getattr(torch, metadata["dtype"])
    _check_tensors(cls, config, dtype, tensors, path)
    # Initial weights are drawn only to be overwritten; the caller's default device has no say.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = _build(cls, config, dtype, path)
    model.load_state_dict(tensors, strict=True)
    if "targets" in metadata:
        try:
            check_targets(metadata["targets"], model)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return model.eval(), metadata


def sources_of(source: str | Path | Sequence[str | Path]) -> list[str]:
    """Names of the checkpoints that make a model: those given, or the parts of ``"a+b+c"``."""
    if not isinstance(source, str | Path):
        return [str(item) for item in source]
    parts = str(source).split("+")
    return parts if len(parts) > 1 and all(parts) and not os.path.exists(source) else [str(source)]


def load_model(source: str | Path | Sequence[str | Path]) -> tuple[Potential | Ensemble, dict]:
    """As ``load_checkpoint``, and an ensemble of several: a list, ``"a+b+c"``, or a folder with members.

    Raises:
        ConfigError, CheckpointError: see there; or an ensemble has one member, or members that do not fit.

    Example:
        >>> model, _ = load_model("mlearn-si")
        >>> model.elements, model.cutoff  # Å
        (('Si',), 5.3)
    """
    names: Sequence[str | Path] = sources_of(source)
    if isinstance(source, str | Path) and len(names) == 1:
        source = find_run(source)
        members = find_members(source)
        if len(members) < 2:
            return load_checkpoint(source)
        names = members
    loaded = [load_checkpoint(name) for name in names]
    metadata = [found for _, found in loaded]
    digests = [found["sha256"] for found in metadata]
    return Ensemble([model for model, _ in loaded]), {"members": metadata, "sha256": digests}


class Bounded(TorchFunctionMode):
    """Permits so many calls of torch functions in its block; of this thread alone, like every such mode.

    Raises:
        ValueError: at the first one too many.
    """

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("many more layers than there are tensors")
        return function(*args, **(kwargs or {}))


def _build(cls: type[Potential], config: PotentialConfig, dtype: torch.dtype, path: Path) -> Potential:
    try:
        return cls(config).to(dtype)
    except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as error:  # sizes beyond torch
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: hyper-parameters describe no model that fits ({reason})") from error


def _check_tensors(
    cls: type[Potential], config: PotentialConfig, dtype: torch.dtype, tensors: dict, path: Path
) -> None:
    # Shapes without memory, and not for ever: the file may ask for any size and any number of layers. The
    # limit may strike just where torch would turn gradients on again, so that has to be seen to.
    limit, gradients = 100 * (10 + len(tensors)), torch.set_grad_enabled(torch.is_grad_enabled())
    with gradients, Bounded(limit), torch.device("meta"):
        expected = _build(cls, config, dtype, path).state_dict()
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
    try:
        return unseal(content, kind, VERSION, oldest)
    except Foreign as error:
        given = kind_of(name)
        what = f" but {given}" if given in NOT_CHECKPOINTS else ""
        order = "; the checkpoint stands before structures and data" if given in (DATA, STRUCTURE) else ""
        raise CheckpointError(
            f"{name}: not a checkpoint{what}; expected a {FILE} written by nff train "
            f"(pickled .pt files are never loaded){order}"
        ) from error
    except Damaged as error:
        raise CheckpointError(f"{name}: {error}") from error


def _check_metadata(metadata: dict, name: str) -> None:
    needed = {"architecture": str, "hyperparameters": dict, "dtype": str}
    for key, kind in needed.items():
        if not isinstance(metadata.get(key), kind):
            raise CheckpointError(f"{name}: metadata lack {key!r}; not a complete checkpoint")
    if metadata["dtype"] not in DTYPES:
        raise CheckpointError(f"{name}: dtype {metadata['dtype']!r}; expected {' or '.join(DTYPES)}")


def find_checkpoint(source: str | Path) -> Path:
    """The file behind a file name, a run folder (see ``find_run``), or the name of a bundled calculator.

    Raises:
        ConfigError: nothing of the kind exists, or more than one is possible.
    """
    path = find_run(source)
    with suppress(OSError, ValueError):  # a name that no file can have is looked up among the bundled ones
        for candidate in (path, path / FILE):
            if candidate.is_file():
                return candidate
    bundled = bundled_calculators()
    if str(source) in bundled and (bundled[str(source)] / FILE).is_file():
        return bundled[str(source)] / FILE
    if find_members(path):
        raise ConfigError(f"{path}: the folder holds no {FILE}, but an ensemble; give one of its files")
    if os.path.isdir(path):
        raise ConfigError(f"{path}: the folder holds no {FILE}; give a run folder or a checkpoint file")
    raise ConfigError(
        f"{source}: no such checkpoint; expected a file, a run folder, or one of "
        f"{', '.join(bundled) or 'the bundled calculators (none here)'}{did_you_mean(str(source), bundled)}"
    )


def find_run(source: str | Path) -> Path:
    """The folder with a model that a folder stands for: itself, or else the only one inside it.

    So ``mine`` is ``mine/run``, where ``nff init --out mine`` has the run. What is no such folder is returned
    as it is.

    Raises:
        ConfigError: there are several, or a bundled calculator has the name of the folder.
    """
    folder = Path(source)
    inside: list[Path] = []
    with suppress(OSError, ValueError):  # a name that no file can have, a folder that cannot be read
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and (p / FILE).is_file())
    own = (folder / FILE).is_file() if inside else True
    if not inside or (own and folder / RUN not in inside) or (not own and find_members(folder)):
        return folder
    if own or len(inside) > 1:
        names = ", ".join(str(p) for p in ([folder / FILE] if own else []) + inside[:5])
        more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
        raise ConfigError(f"{folder}: holds several models ({names}{more}); give one of these")
    if str(source) in bundled_calculators():
        raise ConfigError(
            f"{source}: is a bundled calculator, and a folder here that holds {inside[0]}; "
            f"give {inside[0]}, or rename the folder"
        )
    return inside[0]


def find_members(source: str | Path) -> list[Path]:
    """Files ``member-<k>.safetensors`` in a folder or a bundled calculator, by ascending k."""
    folder = Path(source)
    with suppress(OSError, ValueError):
        if not folder.is_dir():
            folder = bundled_calculators().get(str(source), folder)
        found = {p: MEMBER.fullmatch(p.name) for p in folder.glob("member-*.safetensors")}
        numbers = {p: int(match[1]) for p, match in found.items() if match}
        return sorted(numbers, key=numbers.__getitem__)
    return []


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "nfflr": __version__,
        "torch": torch.__version__,
        "ase": ase.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
