"""What messages are made of: the nearest name, the reason for a wrong value, what is a lack of resources."""

import errno

import pytest
from pydantic import BaseModel, Field, ValidationError

from nfflr.adapters import hint
from nfflr.errors import (
    ConfigError,
    NumericsError,
    ResourceError,
    did_you_mean,
    is_lack_of_resources,
    plain_reason,
)

OPTIONS = (
    "--steps",
    "--temperature-end",
    "--temperature",
    "--timestep",
    "--out",
    "--overwrite",
    "--rdf-cutoff",
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--temp", "--temperature"),  # by spelling alone it would be --steps
        ("--TEMPERATURE", "--temperature"),
        ("--temperature_end", "--temperature-end"),
        ("--temprature", "--temperature"),
        ("--output", "--out"),
        ("--over", "--overwrite"),
        ("--cutoff", "--rdf-cutoff"),
        ("--step", "--steps"),
    ],
)
def test_the_name_that_is_meant_begins_alike_or_is_spelt_alike(name, meant):
    assert did_you_mean(name, OPTIONS) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize("name", ["--force", "--gpu", "-v", ""])
def test_a_name_like_no_other_has_no_hint(name):
    assert did_you_mean(name, (*OPTIONS, "--no-cell", "--help")) == ""


class Made(BaseModel):
    epochs: int = Field(1, ge=1)
    rate: float = 1.0
    cell: bool = False
    name: str = ""
    needed: int


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"epochs": "ten"}, "should be a whole number, got 'ten'"),
        ({"epochs": 1.5}, "should be a whole number, got 1.5"),
        ({"epochs": [3]}, "should be a whole number, got [3]"),
        ({"epochs": 0}, "should be greater than or equal to 1, got 0"),
        ({"rate": "fast"}, "should be a number, got 'fast'"),
        ({"cell": "maybe"}, "should be true or false, got 'maybe'"),
        ({"name": 3}, "should be a text, got 3"),
        ({"needed": None}, "should be a whole number, got None"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(values, reason):
    with pytest.raises(ValidationError) as caught:
        Made(**{"needed": 1, **values})
    assert plain_reason(caught.value.errors()[0]) == reason


def test_a_value_is_missing():
    with pytest.raises(ValidationError) as caught:
        Made()
    assert plain_reason(caught.value.errors()[0]) == "is missing, and required"


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (ResourceError("cannot be written"), True),
        (FileNotFoundError("a program that crashed left no output"), False),
        (NumericsError("exploded"), False),
        (ConfigError("not enough memory of the past"), False),  # ours say by their class what they are
        (ValueError("too strange"), False),
    ],
)
def test_what_says_nothing_about_the_work_itself(error, lack):
    assert is_lack_of_resources(error) is lack


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mace-mp-0", "given as mace:FILE"),
        ("MACE", "given as mace:FILE"),
        ("m3gnet", "given as matgl:FILE"),
        ("CHGNet", "did you mean 'chgnet'?"),
        ("chgnet-0.3.0", "did you mean 'chgnet'?"),
        ("chgnt", "did you mean 'chgnet'?"),
        ("emt", "did you mean 'ase:ase.calculators.emt:EMT'?"),
    ],
)
def test_the_potential_of_another_package_is_told_by_how_it_is_given(source, words):
    assert hint(source).endswith(words)


@pytest.mark.parametrize("source", ["silicon", "mlearn-fe", "macerated", "../x/y"])
def test_other_names_resemble_no_package(source):
    assert "FILE" not in hint(source)
