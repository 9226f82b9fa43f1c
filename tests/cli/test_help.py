"""Help: a map by purpose, examples that parse, options with units and defaults, completion."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from nfflr.cards import bundled_calculators
from nfflr.cli.main import TOPICS, Description, command_files, nff, run
from nfflr.workflows import workflow_names

FILES = command_files()
PROGRAM = [sys.executable, "-m", "nfflr"]


def command_of(name):
    context = click.Context(nff, info_name="nff")
    return nff.get_command(context, name), context


def test_the_map_has_every_command_once_by_purpose_on_lines_of_a_terminal(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for order in (("energy", "relax", "md"), ("init", "lr", "train"), ("phonons", "qha")):
        assert sorted(order, key=lambda name: shown.index(f"\n  {name} ")) == list(order)
    places = [shown.index(f"\n{topic}:") for topic in TOPICS]
    assert places == sorted(places)
    for name, path in FILES.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert Description.of(path).summary.removesuffix(".") in line  # not wrapped
    assert "First steps" in shown and "_NFF_COMPLETE" in shown


def test_a_file_is_a_command_and_knows_its_place():
    assert set(workflow_names()) < set(FILES) and {"train", "models", "lammps"} < set(FILES)
    assert all(Description.of(path).topic in TOPICS for path in FILES.values())
    assert "options" not in FILES and "run" not in FILES


@pytest.mark.parametrize("name", FILES)
def test_help_ends_with_examples_that_parse(name, capsys):
    examples = Description.of(FILES[name]).examples
    assert examples
    command, context = command_of(name)
    for example in examples:
        program, given, *arguments = shlex.split(example)
        assert (program, given) == ("nff", name)
        command.make_context(name, list(arguments), parent=context)
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith(f"  {examples[-1]}")
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", FILES)
def test_every_option_says_what_it_is_and_what_it_is_without_being_given(name):
    command, context = command_of(name)
    for option in command.get_params(click.Context(command, parent=context)):
        if isinstance(option, click.Option):
            said = option.help or ""
            assert len(said) > 15 and said.split("  [default")[0].rstrip().endswith("."), option.opts
            known = option.is_flag or option.required or option.multiple or option.show_default
            assert known or "default:" in said, option.opts
            assert said.startswith("Folder") <= (option.make_metavar(context) == "DIR"), option.opts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nff re", {"relax", "report"}),
        ("nff relax --fm", {"--fmax"}),
        ("nff md --ensemble nvt-", {"nvt-langevin", "nvt-bussi", "nvt-nose-hoover"}),
        ("nff relax ", {""}),  # files, which the shell finds
        ("nff phonons si.cif --mod", {"--model", "--modulation"}),
        ("nff check --model mlearn-s", {"mlearn-si", "mlearn-si-fast", "mlearn-si-alignn"}),
        ("nff relax --model mlearn-", {n for n in bundled_calculators() if n.startswith("mlearn-")}),
    ],
)
def test_the_shell_completes(line, expected):
    environment = {**os.environ, "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    environment["_NFF_COMPLETE"] = "bash_complete"
    code = "from nfflr.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert {answer.partition(",")[2] for answer in done.stdout.split()} == expected, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell):
    environment = {**os.environ, "_NFF_COMPLETE": f"{shell}_source"}
    done = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True)
    if "Bash version" not in done.stderr:  # click asks bash itself
        assert f"_NFF_COMPLETE={shell}_complete" in done.stdout


def test_python_m_is_the_same_program():
    done = subprocess.run([*PROGRAM, "relax", "nowhere.cif"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere.cif")


def test_a_wrong_value_of_a_config_is_told_by_file_and_name(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("fmax: hot\n")
    arguments = ["relax", "si.cif", "--config", str(tmp_path / "settings.yaml")]
    assert run(arguments) == 2
    assert "settings.yaml: fmax: " in capsys.readouterr().err
    assert run([*arguments, "--fmax", "0.1"]) == 2  # the option wins, and then there is no si.cif
    assert "si.cif: no such file" in capsys.readouterr().err


def test_a_host_without_a_port_is_refused(tmp_path, capsys):
    structure = Path(__file__).parents[2] / "tutorials/structures/si-interstitial.cif"
    assert (
        run(["serve", "--model", "mlearn-si-fast", str(structure), "--unix", "si", "--host", "localhost"])
        == 2
    )
    assert "--host: is for --port" in capsys.readouterr().err


def test_lines_of_help_break_at_words_and_values_have_letters(capsys):
    for name in ("md", "gruneisen", "vacancy", "bench"):
        assert run([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "\N{NO-BREAK SPACE}" not in shown and "\N{NON-BREAKING HYPHEN}" not in shown
        assert not [line for line in shown.splitlines() if line.endswith(("-", "[default:"))]
        assert not {"INTEGER", "FLOAT", "PATH"} & set(shown.split())


@pytest.mark.parametrize("name", workflow_names())
def test_settings_say_nothing_of_their_names_in_python(name):
    command, context = command_of(name)
    for option in command.get_params(click.Context(command, parent=context)):
        text = getattr(option, "help", None) or ""
        assert "_" not in text and not text.startswith("Of "), option.opts


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("relax", "STRUCTURE...: missing; see nff relax --help"),
        ("relax si.cif --fmax hot", "--fmax: 'hot' is not a number; see nff relax --help"),
        ("relax si.cif --fmax", "--fmax: requires a value; see nff relax --help"),
        ("phonons si.cif --supercell 2 2", "--supercell: requires 3 values; see nff phonons --help"),
        (
            "phonons si.cif --supercell 2 2 x",
            "--supercell: 'x' is not a whole number; expected N N N; see nff phonons --help",
        ),
        ("md si.cif --steps 1.5", "--steps: '1.5' is not a whole number; see nff md --help"),
        (
            "relax si.cif --optimizer newton",
            "--optimizer: 'newton' is not one of 'fire', 'bfgs', 'lbfgs'; see nff relax --help",
        ),
        ("rlax si.cif", "rlax: no such command; did you mean 'relax'?; see nff --help"),
    ],
)
def test_a_mistake_on_the_line_is_told_by_its_option_in_plain_words(line, told, capsys):
    assert run(line.split()) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize("name", FILES)
def test_the_letters_of_a_value_follow_from_its_type(name):
    command, context = command_of(name)
    for option in command.get_params(click.Context(command, parent=context)):
        if isinstance(option, click.Option) and option.type.name in ("integer", "integer range"):
            assert option.make_metavar(context) in ("N", "ATOMS"), option.opts
        if isinstance(option, click.Option) and option.type.name in ("float", "float range"):
            assert option.make_metavar(context) == "X", option.opts


@pytest.mark.parametrize("name", FILES)
def test_the_unit_stands_before_the_default(name):
    command, context = command_of(name)
    for option in command.get_params(click.Context(command, parent=context)):
        if isinstance(option, click.Option):
            after = (option.help or "").partition("default:")[2]
            assert not re.search(r"\((eV|Å|K|GPa|fs|ps|THz|meV|1/)[^)]*\)", after), option.opts


def test_units_and_defaults_of_md(capsys):
    assert run(["md", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--checkpoint N Steps between states" in text
    assert "for a linear ramp (K); default: that of the start." in text
    assert "Time of one step (fs). [default: 1.0]" in text


@pytest.mark.parametrize(
    "backend",
    ["module://matplotlib_inline.backend_inline", pytest.param("nonsense", marks=pytest.mark.slow)],
)
def test_the_plotting_backend_of_the_user_is_not_needed(backend, tmp_path):
    structure = Path(__file__).parents[2] / "tutorials/structures/si-interstitial.cif"
    arguments = ["relax", structure, "--model", "mlearn-si-fast", "--steps", "1", "--out", tmp_path]
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([*PROGRAM, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 5 and "raise --steps" in done.stderr  # not converged after one step
    assert (tmp_path / "si-interstitial-relax.png").stat().st_size > 1000


def test_running_a_command_in_python_leaves_the_backend_alone(monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "svg")
    assert run(["models"]) == 0 and os.environ["MPLBACKEND"] == "svg"
