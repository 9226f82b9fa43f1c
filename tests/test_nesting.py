"""Deep nesting is refused before a parser follows it; brackets inside of strings do not count."""

import json

import pytest

from nfflr.checkpoint import unpack
from nfflr.errors import CheckpointError
from nfflr.storage.nesting import BLOCK, LIMIT, refuse_deep


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[1, " * (LIMIT + 1),
        '["]",' * (LIMIT + 1),
        "x" * (BLOCK - 100) + "[" * 300,
    ],
)
def test_what_is_nested_deeply_is_refused(text):
    with pytest.raises(ValueError, match=f"more than {LIMIT} deep"):
        refuse_deep(text.encode())


@pytest.mark.parametrize(
    "value", [[[1], [2]] * 1000, "[" * 1000, {"a": ['"[[', "\\", "["] * 300}, [["å{"]] * 500, []]
)
def test_what_is_not_is_let_through(value):
    refuse_deep(json.dumps(value).encode())
    refuse_deep(json.dumps(value, ensure_ascii=False).encode())


def test_as_many_levels_as_the_limit_are_no_more():
    refuse_deep(("[" * LIMIT + "]" * LIMIT).encode())


def test_a_checkpoint_with_a_deep_header_is_refused():
    header = b'{"__metadata__": ' + b"[" * 200_000
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        unpack(len(header).to_bytes(8, "little") + header + b" " * 64, "deep.safetensors")
