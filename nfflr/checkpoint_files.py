"""Which file a checkpoint is in, and what it says of itself: its metadata, read without torch."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .cards import bundled_calculators
from .errors import CheckpointError, ConfigError, ResourceError, did_you_mean
from .storage.sealed import MAX_HEADER, Damaged, Foreign, is_sealed, verify
from .structures.kinds import CHECKPOINT, DATA, FOREIGN, OTHERS, STRUCTURE, kind_of

FORMAT, VERSION = "nfflr-checkpoint", 1
FILE, RUN = "model.safetensors", "run"  # in the folder of a run; of a run, where nff init puts it
MEMBER = re.compile(r"member-(\d+)\.safetensors")
DTYPES = ("float32", "float64")
NOT_CHECKPOINTS = {DATA, STRUCTURE, *OTHERS} - {CHECKPOINT, FOREIGN}


def read_content(path: Path) -> bytes:
    """The bytes of a checkpoint; of a file of another kind, which may be larger than memory, the first ones.

    Raises:
        ResourceError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8 + MAX_HEADER)
        return path.read_bytes() if is_sealed(start, FORMAT) else start
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); check permissions") from error


def read_description(source: str | Path) -> tuple[Path, dict, int]:
    """File, metadata and how many numbers its tensors hold, of a checkpoint; its digest is checked.

    Args:
        source: a file, a run folder, or the name of a bundled calculator.

    Raises:
        ConfigError: there is no such file, folder or name.
        CheckpointError: the file is damaged, not a checkpoint, or of a newer format.
    """
    path = find_checkpoint(source)
    content = read_content(path)
    with reasons(str(path)):
        metadata = verify(content, FORMAT, VERSION)
    check_metadata(metadata, str(path))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    shapes = (entry["shape"] for name, entry in header.items() if name != "__metadata__")
    return path, metadata, sum(map(math.prod, shapes))


@contextmanager
def reasons(name: str) -> Iterator[None]:
    """Inside, what ``sealed`` finds wrong becomes an error that names the file.

    Raises:
        CheckpointError: with the reason.
    """
    try:
        yield
    except Foreign as error:
        kind = kind_of(name)
        what = f" but {kind}" if kind in NOT_CHECKPOINTS else ""
        order = (
            "; the potential follows --model, structures and data stand alone"
            if kind in (DATA, STRUCTURE)
            else ""
        )
        raise CheckpointError(
            f"{name}: not a checkpoint{what}; expected a {FILE} written by nff train "
            f"(pickled .pt files are never loaded){order}"
        ) from error
    except Damaged as error:
        raise CheckpointError(f"{name}: {error}") from error


def check_metadata(metadata: dict, name: str) -> None:
    """See that the metadata name an architecture.

    Raises:
        CheckpointError: they do not.
    """
    needed = {"architecture": str, "hyperparameters": dict, "dtype": str}
    for key, kind in needed.items():
        if not isinstance(metadata.get(key), kind):
            raise CheckpointError(f"{name}: metadata lack {key!r}; not a complete checkpoint")
    if metadata["dtype"] not in DTYPES:
        raise CheckpointError(f"{name}: dtype {metadata['dtype']!r}; expected {' or '.join(DTYPES)}")


def terms_of(source: str | Path | Sequence[str | Path]) -> list:
    """Names of the terms of a sum ``"a + b"``; what is no sum is its only term."""
    if not isinstance(source, str) or os.path.exists(source):
        return [source]
    return re.split(r"\s+\+\s+", source.strip())


def sources_of(source: str | Path | Sequence[str | Path]) -> list[str]:
    """Names of the checkpoints that make a committee: those given, or the parts of ``"a,b,c"``.

    The former ``"a+b+c"`` without spaces is still read.
    """
    if not isinstance(source, str | Path):
        return [str(item) for item in source]
    text = str(source)
    if os.path.exists(source) or re.match(r"[\w.-]+:", text) or len(terms_of(text)) > 1:
        return [text]
    for separator in ",+":
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and all(parts):
            return parts
    return [text]


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
        raise ConfigError(f"{path}: the folder holds no {FILE}, but a committee; give one of its files")
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
        matches = {p: MEMBER.fullmatch(p.name) for p in folder.glob("member-*.safetensors")}
        numbers = {p: int(match[1]) for p, match in matches.items() if match}
        return sorted(numbers, key=numbers.__getitem__)
    return []
