"""Tensors with canonical JSON metadata and a digest over every other byte, as one safetensors file.

Reading executes nothing: no pickle, no import of a name found in the file.
"""

from __future__ import annotations

import hashlib
import json

import safetensors
import safetensors.torch
import torch

from .errors import CheckpointError

FORMAT, VERSION = "nfflr-checkpoint", 1
FILE = "model.safetensors"
MAX_HEADER = 16 * 2**20  # bytes; ours are a few kilobytes


def pack(tensors: dict[str, torch.Tensor], metadata: dict, kind: str = FORMAT) -> bytes:
    """Bytes of a safetensors file whose metadata carry the SHA-256 of all other bytes."""
    full = {"format": kind, "version": VERSION, **metadata, "sha256": "0" * 64}
    text = json.dumps(full, sort_keys=True, ensure_ascii=True, allow_nan=False)
    content = safetensors.torch.save(tensors, metadata={"nfflr": text})
    digest = hashlib.sha256(content).hexdigest().encode()
    # Inside the header our JSON is a string, so its quotes are escaped.
    return content.replace(rb"\"sha256\": \"" + b"0" * 64, rb"\"sha256\": \"" + digest, 1)


def unpack(content: bytes, name: str, kind: str = FORMAT) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of ``pack``'s bytes, after every check.

    Raises:
        CheckpointError: with the reason.
    """
    metadata = read_metadata(content, name, kind)
    digest = str(metadata.get("sha256", "")).encode(errors="replace")
    blank = content.replace(rb"\"sha256\": \"" + digest, rb"\"sha256\": \"" + b"0" * 64, 1)
    if len(digest) != 64 or hashlib.sha256(blank).hexdigest().encode() != digest:
        raise CheckpointError(f"{name}: the digest does not match, the file is damaged; fetch it again")
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{name}: not a readable checkpoint ({error}); fetch it again") from error
    return tensors, metadata


def read_metadata(content: bytes, name: str, kind: str = FORMAT) -> dict:
    """The metadata alone, before the digest has been checked.

    Raises:
        CheckpointError: not a file of this kind and version.
    """
    not_ours = CheckpointError(
        f"{name}: not a checkpoint; expected a {FILE} written by nff train "
        "(pickled .pt files are never loaded)"
    )
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(content) - 8) or content[8:9] != b"{":
        raise not_ours
    try:
        header = json.loads(content[8 : 8 + length], object_pairs_hook=_no_duplicates)
        metadata = json.loads(
            header["__metadata__"]["nfflr"], object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise not_ours from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise not_ours
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{name}: format version {metadata.get('version')}, this nfflr reads {VERSION}; update nfflr"
        )
    return metadata


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("duplicate keys")
    return dict(pairs)
