"""Several values of an option, however they are typed, and slips that click would misread."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfflr.cli.grammar import as_click_takes
from nfflr.cli.main import run
from nfflr.cli.options import Whole

SUPERCELL = click.Option(["--supercell"], type=(Whole(), Whole(), Whole()))
SIZES = click.Option(["--sizes"], type=Whole(1), multiple=True)
COMPARE = click.Option(["--compare"], type=click.Path(), multiple=True)
CELL = click.Option(["--cell/--no-cell"])
TRUST = click.Option(["--trust"], is_flag=True)
MODEL = click.Option(["--model", "-m"])
OPTIONS = [SUPERCELL, SIZES, COMPARE, CELL, TRUST, MODEL, click.Argument(["structure"], nargs=-1)]


def taken(line: list[str]) -> dict:
    """What click makes of a line."""
    values: dict = {}
    command = click.Command("x", params=OPTIONS, callback=lambda **found: values.update(found))
    command.main(as_click_takes(OPTIONS, line), standalone_mode=False)
    return values


numbers = st.lists(st.integers(-99, 99), min_size=3, max_size=3)
files = st.lists(st.sampled_from(["a.cif", "2,2,2", "b"]), max_size=2)
separators = st.sampled_from([",", ", ", " ", ";"])


@given(three=numbers, before=files, after=files, separator=separators, equals=st.booleans())
def test_three_values_are_the_same_however_they_are_written(three, before, after, separator, equals):
    text = separator.join(map(str, three))
    given_ = [f"--supercell={text}"] if equals else ["--supercell", text]
    values = taken([*before, *given_, *after])
    assert values == taken([*before, "--supercell", *map(str, three), *after])
    assert values["supercell"] == tuple(three) and values["structure"] == (*before, *after)


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=5), equals=st.booleans())
def test_any_number_of_values_may_be_joined(sizes, equals):
    text = ",".join(map(str, sizes))
    values = taken([f"--sizes={text}"] if equals else ["--sizes", text])
    assert values["sizes"] == tuple(sizes)


def test_signs_and_crosses():
    assert taken(["--supercell", "2x3×4"])["supercell"] == (2, 3, 4)
    assert taken(["--supercell", "[1,-1,0]"])["supercell"] == (1, -1, 0)
    assert taken(["--sizes", "8,64", "a.cif", "--sizes", "9"])["sizes"] == (8, 64, 9)
    assert taken(["--sizes", "8", "64", "9", "a.cif"])["sizes"] == (8, 64, 9)


@pytest.mark.parametrize("verb", ["check", "bench", "validate", "serve", "lammps", "evaluate"])
def test_the_former_place_of_the_potential_is_told_with_the_line_to_write(verb, capsys):
    assert run([verb, "mlearn-si", "x.xyz"]) == 2
    line = f"nff {verb} x.xyz --model mlearn-si"
    assert capsys.readouterr().err == f"error: --model: missing; write {line}; see nff {verb} --help\n"


def test_options_of_former_versions_are_told(capsys):
    for line, advice in (
        ("distill a.cif --teacher chgnet", "--teacher: no such option; did you mean '--model'?"),
        ("lammps --model x --data a.cif", "--data: no such option; structures stand without an option"),
        (
            "check --model x --structure a.cif",
            "--structure: no such option; structures stand without an option",
        ),
    ):
        assert run(line.split()) == 2
        assert advice in capsys.readouterr().err


def test_a_potential_alone_needs_no_option_where_nothing_else_is_taken(capsys):
    assert run(["info", "mlearn-si"]) == 0
    shown = capsys.readouterr().out
    assert run(["info", "--model", "mlearn-si"]) == 0
    assert capsys.readouterr().out == shown


def test_a_structure_without_a_potential_is_not_taken_for_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "si.xyz").write_text("")
    assert run(["check", "si.xyz"]) == 2
    assert "--model: missing; give the name of a potential or its file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["--model", "2,2,2", "a.cif"],  # a value of another option is left alone
        ["--model", "--supercell", "a.cif"],
        ["--compare", "a,b", "--", "--supercell", "2,2,2"],  # file names; what stands after -- is no option
        ["a.cif", "--cell", "b.cif"],
        ["-m", "x", "-mx", "a.cif"],
    ],
)
def test_the_rest_of_a_line_stays_as_it_is(line):
    assert as_click_takes(OPTIONS, line) == line


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["-model", "x"], "-model: the names of options have two dashes; write --model"),
        (["--cell", "yes"], "--cell: takes no value; write --cell or --no-cell"),
        (["--trust", "true", "a.cif"], "--trust: takes no value; leave 'true' out"),
    ],
)
def test_a_slip_that_click_would_misread_is_told(line, told):
    with pytest.raises(click.UsageError, match=told):
        as_click_takes(OPTIONS, line)


def test_a_file_called_yes_is_a_structure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yes").write_text("")
    assert as_click_takes(OPTIONS, ["--cell", "yes"]) == ["--cell", "yes"]


@pytest.mark.parametrize(
    ("line", "told", "command"),
    [
        ("md si.cif --temp 300", "--temp: no such option; did you mean '--temperature'?", "nff md"),
        ("md si.cif --dt 2", "--dt: no such option; did you mean '--timestep'?", "nff md"),
        ("relax si.cif --calculator x", "--calculator: no such option; did you mean '--model'?", "nff relax"),
        ("relax si.cif --list", "--list: no such option", "nff relax"),
        ("relax si.cif -model x", "-model: the names of options have two dashes; write --model", "nff relax"),
        ("relax si.cif --cell yes", "--cell: takes no value; write --cell or --no-cell", "nff relax"),
        (
            "--model x relax si.cif",
            "--model: no such option; options follow the command, as nff relax --model",
            "nff",
        ),
        ("bench --model mlearn-si --sizes 8,x", "--sizes: '8,x' is not a whole number", "nff bench"),
        (
            "md si.cif --temperature 300K",
            "--temperature: '300K' is not a number; leave the unit out, as 300",
            "nff md",
        ),
        ("train a.py --lr 1", "--lr: no such option; other settings stand in the config", "nff train"),
        ("train a.py --nproc 0", "--nproc: 0 is wrong; expected a value >= 1", "nff train"),
        ("train a.py b.py", "b.py: too many arguments; nff train takes CONFIG", "nff train"),
        (
            "energy si.cif --dtype float16",
            "--dtype: 'float16' is not one of 'float32', 'float64'",
            "nff energy",
        ),
        ("md si.cif --steps 1e4", "--steps: '1e4' is not a whole number; write 10000", "nff md"),
        ("optimize si.cif", "optimize: no such command; did you mean 'relax'?", "nff"),
        ("help relax", "help: no such command; write nff relax --help", "nff"),
        ("version", "version: no such command; write nff --version", "nff"),
        ("phonon si.cif", "phonon: no such command; did you mean 'phonons'?", "nff"),
        ("phonons no.cif --supercell 2,2,2", "no.cif: no such file; check the path", ""),
        ("surface no.cif --miller 1,-1,0", "no.cif: no such file; check the path", ""),
        ("md no.cif --ensemble NVT", "no.cif: no such file; check the path", ""),
    ],
)
def test_what_a_newcomer_types_is_understood_or_told(line, told, command, capsys):
    assert run(line.split()) == 2
    see = f"; see {command} --help" if command else ""
    assert capsys.readouterr().err == f"error: {told}{see}\n"


def test_a_structure_without_a_command(tmp_path, capsys):
    (tmp_path / "si.cif").write_text("")
    assert run([str(tmp_path / "si.cif")]) == 2
    assert f"the command comes first, as nff relax {tmp_path / 'si.cif'}" in capsys.readouterr().err


def test_an_ensemble_that_does_not_exist_has_a_hint(capsys):
    assert run(["md", "si.cif", "--ensemble", "langevin"]) == 2
    assert "did you mean 'nvt-langevin'?" in capsys.readouterr().err
