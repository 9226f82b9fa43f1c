"""How workflows are called from Python, and what their results show, draw and write."""

import base64
import inspect
import io
import json
import pickle
import sys
import types
import typing

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

import nfflr
from nfflr.cli.main import run
from nfflr.errors import ConfigError
from nfflr.workflows import RelaxSettings, elastic, energy, eos, md, neb, phonons, relax, workflow_names
from nfflr.workflows.framework import progress_bar
from nfflr.workflows.framework.contract import find_workflow
from nfflr.workflows.framework.results import LINES, WIDTH, describe, result_record


@pytest.fixture
def copper():
    atoms = bulk("Cu", a=3.65, cubic=True)
    atoms.calc = EMT()
    return atoms


@pytest.fixture(scope="module")
def results():
    """One of each kind that shows much."""
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.calc = EMT()
    return {
        "energy": energy(atoms),
        "relax": relax(atoms, cell=True),
        "elastic": elastic(atoms),
        "eos": eos(atoms),
        "phonons": phonons(atoms, supercell=(2, 2, 2), mesh=(4, 4, 4), relax="none"),
        "md": md(atoms, steps=40, timestep=2),
    }


def test_settings_are_given_by_name_or_as_an_object_or_both(copper):
    named = relax(copper, fmax=0.001, cell=True)
    assert result_record(named) == result_record(relax(copper, EMT(), RelaxSettings(fmax=0.001, cell=True)))
    both = relax(copper, settings=RelaxSettings(fmax=0.5, cell=True), fmax=0.001)
    assert result_record(both) == result_record(named)
    assert relax(copper).fmax < 0.01 and copper.cell[0, 0] == 3.65  # defaults; the structure stays


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fmx": 0.1}, "fmx: there is no such setting; did you mean 'fmax'"),
        ({"calculater": None}, "calculater: there is no such setting; did you mean 'calculator'"),
        ({"fmax": -1}, "fmax: should be greater than 0, got -1"),
        ({"optimizer": "newton"}, "optimizer: "),
        ({"pressure": 1.0}, "settings: pressure needs the cell to move"),
        ({"settings": 3}, "settings: got int; expected RelaxSettings"),
        ({"calculator": RelaxSettings()}, "calculator: got RelaxSettings; expected a calculator"),
        ({"calculator": "mlearn-si-fast"}, "calculator: got str; expected a calculator"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(copper, fields, message):
    with pytest.raises(ConfigError) as caught:
        relax(copper, **fields)
    assert str(caught.value).startswith(message)


def test_the_calculator_is_that_of_the_structure(copper):
    bare = copper.copy()
    with pytest.raises(ConfigError, match="calculator: there is none; set atoms.calc"):
        relax(bare)
    assert relax(bare, EMT()).energy == relax(copper).energy
    bare.calc = SinglePointCalculator(bare, energy=1.0, forces=np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="only holds the results which were read with it"):
        relax(bare)


def test_a_path_takes_the_calculator_of_either_end(copper):
    slab = bulk("Al", cubic=True).repeat((2, 2, 2))
    del slab[0]
    initial, final = slab.copy(), slab.copy()
    final.positions[0] = bulk("Al", cubic=True).positions[0]
    final.calc = EMT()
    path = neb(initial, final, images=3, steps=2)
    assert path.to_json()


@pytest.mark.parametrize("name", workflow_names())
def test_the_signature_tells_editors_every_setting(name):
    workflow = find_workflow(name)
    signature = inspect.signature(workflow.function)
    hints = typing.get_type_hints(workflow.function)
    assert signature.parameters["calculator"].default is None
    assert hints["calculator"] == Calculator | None and hints["return"] is workflow.result
    for field, info in workflow.settings.model_fields.items():
        parameter = signature.parameters[field]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == info.default and parameter.annotation == info.annotation


@pytest.mark.parametrize("name", ["energy", "relax", "elastic", "eos", "phonons", "md"])
def test_a_repr_is_the_table_of_the_command_line_and_short(name, results):
    result = results[name]
    lines = repr(result).splitlines()
    assert len(lines) <= LINES <= 25 and max(map(len, lines)) <= WIDTH <= 100
    numbers = [line for line in describe(result).splitlines() if line.startswith("  ")]
    assert numbers and set(numbers) <= set(lines)
    assert lines[0].startswith(type(result).__name__)
    shown = io.StringIO()
    Console(file=shown, width=100).print(result)  # rich has a printer of its own
    assert len(shown.getvalue().splitlines()) <= LINES


def test_a_failure_says_so_at_once(copper):
    assert repr(relax(copper, steps=0, fmax=1e-9, cell=True)).startswith("RelaxResult, not converged:")


@pytest.mark.parametrize("name", ["relax", "elastic", "eos", "phonons", "md"])
def test_a_result_is_saved_and_read_back(name, results, tmp_path):
    result = results[name]
    files = result.save(tmp_path)
    assert files["json"] == tmp_path / f"Cu4-{name}.json" and files["plot"].stat().st_size > 1000
    assert all(path.is_file() for path in files.values())
    record = json.loads(files["json"].read_text(encoding="utf-8"))
    assert {"settings", "units", "versions", "calculator", "wall_time_s"} <= record.keys()
    assert record["version"] == 1
    assert record["command"].startswith(f"nfflr.workflows.{name}(atoms")
    assert record["files"] == {field: path.name for field, path in files.items()}
    with pytest.raises(ConfigError, match="exists; use --overwrite"):
        result.save(tmp_path)
    again = nfflr.read_result(files["json"])
    assert type(again) is type(result) and repr(again) == repr(result)
    assert result_record(again) == result_record(result)
    assert json.loads(again.to_json()) == json.loads(result.to_json())
    second = again.save(tmp_path / "again")
    assert second.keys() == files.keys()
    assert json.loads(second["json"].read_text("utf-8")) == record


def test_a_result_without_files_is_read(results, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(results["relax"].to_json(), encoding="utf-8")
    again = nfflr.read_result(path)
    assert again.energy == results["relax"].energy and not hasattr(again, "structure")


def test_the_command_line_and_python_write_the_same_files(copper, tmp_path):
    copper.calc = None
    copper.write(tmp_path / "Cu4.xyz")
    model = "ase:ase.calculators.emt:EMT"
    assert run(["relax", str(tmp_path / "Cu4.xyz"), "--cell", "-m", model, "-o", str(tmp_path / "cli")]) == 0
    relax(copper, EMT(), cell=True).save(tmp_path / "python/Cu4-relax.json")
    assert {p.name for p in (tmp_path / "cli").iterdir()} == {p.name for p in (tmp_path / "python").iterdir()}
    ours, theirs = (
        json.loads((tmp_path / where / "Cu4-relax.json").read_text("utf-8")) for where in ("python", "cli")
    )
    assert ours["settings"] == theirs["settings"] and ours["units"] == theirs["units"]
    assert ours["versions"] == theirs["versions"] and ours["files"] == theirs["files"]
    assert ours["result"]["energy"] == pytest.approx(theirs["result"]["energy"], abs=1e-9)


def test_formats_and_names_are_chosen(copper, tmp_path):
    files = relax(copper).save(tmp_path / "mine.json", format="cif")
    assert {path.name for path in files.values()} == {
        "mine.json",
        "mine-relaxed.cif",
        "mine-relax.traj",
        "mine-relax.png",
    }
    with pytest.raises(ConfigError, match=r"format: there is no 'ciff'; did you mean 'cif'"):
        relax(copper).save(tmp_path / "other", format="ciff")


def test_figures(results, copper):
    assert results["eos"].plot().axes
    assert results["eos"].plot({"other": results["eos"]}, "this").axes[0].get_legend()
    with pytest.raises(ConfigError, match="energy: this workflow has no figure"):
        results["energy"].plot()
    made = type(results["eos"]).model_construct(converged=True)
    with pytest.raises(ConfigError, match="EosResult: was not made by a workflow"):
        made.plot()


def test_notebooks_show_numbers_and_a_figure_where_there_is_one(results):
    png = results["eos"]._repr_png_()
    assert png.startswith(b"\x89PNG")
    html = results["eos"]._repr_html_()
    assert base64.b64encode(png[:60]).decode() in html and "bulk modulus" in html
    assert results["energy"]._repr_png_() is None and "<img" not in results["energy"]._repr_html_()


def test_a_result_of_some_fields_alone_is_shown_too():
    part = find_workflow("eos").result.model_construct(volume=1.0)  # as a reference that was written by hand
    assert "volume  1 Å³" in repr(part) and part._repr_png_() is None and "volume" in part._repr_html_()


def test_a_result_travels_between_processes(results):
    again = pickle.loads(pickle.dumps(results["relax"]))
    assert repr(again) == repr(results["relax"]) and again.to_json() == results["relax"].to_json()


def test_what_is_no_result_is_refused(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(ConfigError, match=r"x.json: cannot be read \(No such file"):
        nfflr.read_result(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="x.json: not JSON"):
        nfflr.read_result(path)
    for content, message in (
        ("[]", "x.json: expected a JSON object; give the JSON of a result"),
        ('{"workflow": "relaks", "result": {}}', "holds the result of no known workflow"),
        ('{"workflow": ["relax"], "result": {}}', "workflow: should be a text"),
        ('{"workflow": "relax", "result": {}, "version": 99}', "is of version 99"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            nfflr.read_result(path)


def test_molecules_keep_what_they_are_through_the_files(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = EMT()
    again = nfflr.read_result(relax(atoms, steps=3).save(tmp_path)["json"])
    assert isinstance(again.relaxed, ase.Atoms) and not again.relaxed.pbc.any()
    assert len(again.trajectory) == again.steps + 1 and again.uncertain is None


# Progress


@pytest.fixture
def terminal(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(
        progress_bar, "Console", lambda **_: Console(file=text, force_terminal=True, width=90, markup=False)
    )
    return text


def test_progress_is_a_bar_on_request(copper, terminal):
    relax(copper)
    assert terminal.getvalue() == ""
    relax(copper, progress=True)
    assert "relax" in terminal.getvalue() and "fmax (eV/Å)" in terminal.getvalue()
    relax(copper, progress=nfflr.progress_bar("my copper"))
    assert "my copper" in terminal.getvalue()


def test_a_function_of_the_user_is_called_with_every_step(copper):
    calls = []
    result = relax(copper, progress=lambda step, total, numbers, atoms: calls.append((step, numbers)))
    assert [step for step, _ in calls] == list(range(result.steps + 1))


def test_notebooks_have_a_line_that_changes(copper, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress_bar, "Console", lambda **_: types.SimpleNamespace(is_jupyter=True))
    relax(copper, progress=True)
    assert shown[0] == "relax: starting" and "fmax (eV/Å)" in shown[-1]
