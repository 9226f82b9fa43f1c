"""Deep nesting is refused before a parser follows it; brackets inside of strings do not count."""

import json

import pytest

from nfflr.checkpoint import unpack
from nfflr.errors import CheckpointError, StructureError
from nfflr.storage.sealed import Foreign, read_metadata
from nfflr.structures.formats import documents

LIMIT = 200


def read(folder, text):
    path = folder / "x.json"
    path.write_text(text)
    ((_, content),) = documents(path)
    return content


def sealed(header):
    return len(header).to_bytes(8, "little") + header + b" " * 64


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[1, " * (LIMIT + 2), '["]",' * (LIMIT + 2)]
)
def test_what_is_nested_deeply_is_refused(tmp_path, text):
    with pytest.raises(StructureError, match="line 1 is not JSON .recursion limit"):
        read(tmp_path, text)
    for header in ('{"a": ' + text, json.dumps({"__metadata__": {"nfflr": text}})):
        with pytest.raises(Foreign, match="no metadata"):
            read_metadata(sealed(header.encode()), "nfflr-checkpoint")


@pytest.mark.parametrize(
    "value", [[[1], [2]] * 1000, "[" * 1000, {"a": ['"[[', "\\", "["] * 300}, [["å{"]] * 500, []]
)
def test_what_is_not_is_let_through(tmp_path, value):
    assert read(tmp_path, json.dumps(value)) == value
    assert read(tmp_path, json.dumps(value, ensure_ascii=False)) == value


def test_as_many_levels_as_the_limit_are_no_more(tmp_path):
    assert json.dumps(read(tmp_path, "[" * LIMIT + "]" * LIMIT)) == "[" * LIMIT + "]" * LIMIT


@pytest.mark.parametrize("number", ["9" * 5000, "1" * 10**6])
def test_a_number_too_long_to_read_is_refused(tmp_path, number):
    with pytest.raises(StructureError, match="line 1 is not JSON .number out of range"):
        read(tmp_path, number)
    header = json.dumps({"__metadata__": {"nfflr": number}})
    with pytest.raises(Foreign, match="no metadata"):
        read_metadata(sealed(header.encode()), "nfflr-checkpoint")


@pytest.mark.parametrize(
    "metadata", ['{"format": "a", "format": "nfflr-checkpoint", "version": 1}', '{"a": NaN}', '{"a": 1e999}']
)
def test_duplicate_keys_and_what_is_no_number_are_refused_in_sealed_bytes(metadata):
    header = json.dumps({"__metadata__": {"nfflr": metadata}})
    with pytest.raises(Foreign):
        read_metadata(sealed(header.encode()), "nfflr-checkpoint")


def test_a_checkpoint_with_a_deep_header_is_refused():
    header = b'{"__metadata__": ' + b"[" * 200_000
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        unpack(len(header).to_bytes(8, "little") + header + b" " * 64, "deep.safetensors")
