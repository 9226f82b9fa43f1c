"""Sealed bytes: safetensors whose JSON metadata carry the digest of every other byte. Never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pydantic_core
import safetensors
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from ..errors import ConfigError, plain_reason
from .files import write_json

if TYPE_CHECKING:
    import torch

MAX_HEADER = 16 * 2**20  # bytes; ours are a few kilobytes


class Foreign(ValueError):
    """The bytes are not sealed, or they are of another kind."""


class Damaged(ValueError):
    """The bytes were sealed and cannot be used; the message is a reason."""


def seal(tensors: dict[str, torch.Tensor], metadata: dict, kind: str, version: int = 1) -> bytes:
    """Bytes of a safetensors file whose metadata carry the SHA-256 of all other bytes."""
    from safetensors.torch import save

    full = {"format": kind, "version": version, **metadata, "sha256": "0" * 64}
    text = json.dumps(full, sort_keys=True, ensure_ascii=True, allow_nan=False)
    content = save(tensors, metadata={"nfflr": text})
    digest = hashlib.sha256(content).hexdigest().encode()
    # Inside the header our JSON is a string, so its quotes are escaped.
    return content.replace(rb"\"sha256\": \"" + b"0" * 64, rb"\"sha256\": \"" + digest, 1)


def unseal(
    content: bytes, kind: str, version: int = 1, oldest: int | None = None
) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of ``seal``'s bytes, after every check.

    Args:
        content, kind: the bytes, and what they should be.
        version: of the format, the newest that is read.
        oldest: the oldest that is read; default: ``version``.

    Raises:
        Foreign, Damaged: see there.
    """
    from safetensors.torch import load

    metadata = verify(content, kind, version, oldest)
    try:
        tensors = load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Damaged(f"not readable ({error}); fetch it again") from error
    return tensors, metadata


def verify(content: bytes, kind: str, version: int = 1, oldest: int | None = None) -> dict:
    """The metadata, after the digest was checked. Arguments as ``unseal``'s.

    Raises:
        Foreign, Damaged: see there.
    """
    metadata = read_metadata(content, kind, version, oldest)
    digest = str(metadata.get("sha256", "")).encode(errors="replace")
    blank = content.replace(rb"\"sha256\": \"" + digest, rb"\"sha256\": \"" + b"0" * 64, 1)
    if len(digest) != 64 or hashlib.sha256(blank).hexdigest().encode() != digest:
        raise Damaged("the digest does not match, the file is damaged; fetch it again")
    return metadata


def is_sealed(start: bytes, kind: str) -> bool:
    """Whether the first 8 + ``MAX_HEADER`` bytes of a file are those of a sealed one, of any version."""
    try:
        read_metadata(start, kind)
    except Foreign:
        return False
    except Damaged:  # another version, which the check of the whole file reports
        pass
    return True


def read_metadata(content: bytes, kind: str, version: int = 1, oldest: int | None = None) -> dict:
    """The metadata alone; the digest is not checked. Arguments as ``unseal``'s.

    Raises:
        Foreign, Damaged: see there.
    """
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(content) - 8) or content[8:9] != b"{":
        raise Foreign("no header")
    try:
        header = _strict_json(content[8 : 8 + length])
        metadata = _strict_json(header["__metadata__"]["nfflr"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Foreign("no metadata") from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise Foreign("another kind")
    stated, oldest = metadata.get("version"), version if oldest is None else oldest
    if type(stated) is not int or not oldest <= stated <= version:  # True is an int too
        readable = version if oldest == version else f"{oldest} to {version}"
        raise Damaged(f"format version {stated}, this nfflr reads {readable}; update nfflr")
    return metadata


def _strict_json(text: bytes | str) -> Any:
    """JSON without duplicate keys, NaN and deep nesting, whose bracket after bracket json would follow."""
    from_json(text, allow_inf_nan=False)  # refuses all but duplicate keys, which only json lets us see
    return json.loads(text, object_pairs_hook=_no_duplicates)


def _no_duplicates(pairs: list[tuple]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("duplicate keys")
    return dict(pairs)


Step = Callable[[dict[str, Any]], dict[str, Any]]


class Record(BaseModel):
    """A JSON file of this program.

    A subclass says by ``kind`` what the file is called in messages and in ``STEPS``, and by the default of
    ``version`` what is current. A file without a version is of the first.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    kind: ClassVar[str]
    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file, of whatever version up to the current one.

        Raises:
            ConfigError: the file cannot be read, holds something else, or is of a newer version.
        """
        try:
            # The parser of pydantic refuses deep nesting, which would overflow the stack of others.
            content = pydantic_core.from_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give {cls.kind}") from error
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error}); give {cls.kind}, or restore it") from error
        return cls.from_content(content, path)

    @classmethod
    def from_content(cls, content: Any, source: Path) -> Self:
        """The record of a JSON object, or of the same in YAML. Errors as of ``read``."""
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: expected a JSON object; give {cls.kind}, or restore it")
        try:
            return cls.model_validate(raised(cls.kind, content, source))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{source}: {where}: {plain_reason(first)}; give {cls.kind}, or restore it"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; numbers that are not finite become null."""
        write_json(path, self.model_dump(mode="json", by_alias=True))


def raised(kind: str, content: dict[str, Any], source: Path) -> dict[str, Any]:
    """The content of a file in the form of the current version.

    Raises:
        ConfigError: the file is of a newer version, or its version is no number.
    """
    steps = STEPS.get(kind, ())
    version = content.get("version", 1)
    if type(version) is not int or not 1 <= version <= 1 + len(steps):
        raise ConfigError(
            f"{source}: is of version {version!r}; this nfflr reads up to {1 + len(steps)}; update nfflr"
        )
    for step in steps[version - 1 :]:
        content = step(content)
    return {**content, "version": 1 + len(steps)}


def _status_of_checks(content: dict[str, Any]) -> dict[str, Any]:
    """The first results of nff check said only whether a check passed."""
    checks = [
        {"status": "pass" if row.get("passed") else "fail", **row} if isinstance(row, dict) else row
        for row in content.get("checks") or ()
    ]
    return {**content, "checks": checks}


def _loss_between_validations(content: dict[str, Any]) -> dict[str, Any]:
    """States were once saved at validations only, when no loss was being summed."""
    return {"loss_sum": 0.0, "loss_count": 0, **content}


def _reasons_by_task(content: dict[str, Any]) -> dict[str, Any]:
    """The file was once nothing but reasons by task."""
    return {"tasks": content}


def _settings_apart(content: dict[str, Any]) -> dict[str, Any]:
    """Settings once stood beside the teacher and the structures."""
    apart: dict[str, Any] = {name: content[name] for name in ("teacher", "structures") if name in content}
    return {**apart, "settings": {name: value for name, value in content.items() if name not in apart}}


STEPS: dict[str, tuple[Step, ...]] = {
    "a result of nff check": (_status_of_checks,),
    "a training state": (_loss_between_validations,),
    "the left-out.json of nff distill": (_reasons_by_task,),
    "the plan.json of nff distill": (_settings_apart,),
}
