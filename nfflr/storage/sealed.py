"""Sealed bytes: safetensors whose JSON metadata carry the digest of every other byte. Never a pickle."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import safetensors
from pydantic_core import from_json

if TYPE_CHECKING:  # metadata are read without torch, which takes a second to import
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
    except Damaged:  # of another version, which is told of the whole
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
    found, oldest = metadata.get("version"), version if oldest is None else oldest
    if type(found) is not int or not oldest <= found <= version:  # True is an int too
        readable = version if oldest == version else f"{oldest} to {version}"
        raise Damaged(f"format version {found}, this nfflr reads {readable}; update nfflr")
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
