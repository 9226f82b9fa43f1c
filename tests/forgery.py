"""Checkpoint files as an accident or an attacker would leave them, the digest made to fit where one can."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import safetensors.torch

CARRIER = re.compile(rb'(\\"sha256\\": \\")([0-9a-f]{64})')


class Hostile:
    """Unpickled, it makes the canary file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


def split(content: bytes) -> tuple[bytes, bytes]:
    """Header and body of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def signed(header: bytes, body: bytes) -> bytes:
    """A file whose digest is right: the digest keeps out accidents, so attacks are tried with a valid one."""
    header += b" " * (-len(header) % 8)
    blank = len(header).to_bytes(8, "little") + CARRIER.sub(rb"\g<1>" + b"0" * 64, header) + body
    digest = hashlib.sha256(blank).hexdigest().encode()
    return CARRIER.sub(rb"\g<1>" + digest, blank, count=1)


def edited(content: bytes, change=lambda header: None, **metadata) -> bytes:
    """A signed file whose header went through ``change`` and whose metadata have new values (...: none)."""
    text, body = split(content)
    header = json.loads(text)
    inner = {**json.loads(header["__metadata__"]["nfflr"]), **metadata}
    inner = {key: value for key, value in inner.items() if value is not ...}
    header["__metadata__"]["nfflr"] = json.dumps(inner, sort_keys=True)
    change(header)
    return signed(json.dumps(header).encode(), body)


def with_tensors(content: bytes, change) -> bytes:
    """A signed file of the tensors that ``change`` leaves in the dictionary."""
    tensors = safetensors.torch.load(content)
    change(tensors)
    text, _ = split(content)
    return signed(*split(safetensors.torch.save(tensors, json.loads(text)["__metadata__"])))
