"""Suites as folders: what is read, and one line for whatever is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT

from nfflr.calculator import NFFLrCalculator
from nfflr.cards import read_card
from nfflr.errors import ConfigError, NFFLrError, StructureError
from nfflr.validation.reading import read_suite
from nfflr.workflows.framework.contract import find_workflow
from nfflr.workflows.framework.results import result_record

SHIPPED = Path(__file__).parents[2] / "calculators" / "mlearn-si" / "suite"
REFERENCE = {"workflow": "relax", "result": {"energy": 0.0, "volume": 11.8}, "units": {"volume": "Å^3"}}


@pytest.fixture
def folder(tmp_path):
    """A suite of one task, as files."""
    place = tmp_path / "mine"
    place.mkdir()
    bulk("Cu", a=3.7).write(place / "cu.vasp")
    (place / "ref.json").write_text(json.dumps(REFERENCE))
    entry = {"name": "copper", "workflow": "relax", "structure": "cu.vasp", "reference": "ref.json"}
    write(place, [{**entry, "settings": {"cell": True}, "limits": {"volume_error": 5}}])
    return place


def write(place, tasks):
    (place / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))


def entry_of(place):
    return yaml.safe_load((place / "suite.yaml").read_text())["tasks"][0]


def message_of(place):
    with pytest.raises(NFFLrError) as caught:
        read_suite(place)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text, caught.value.exit_code


def test_a_folder_is_read_relative_to_itself(folder, monkeypatch):
    monkeypatch.chdir(folder)
    suite = read_suite(".")
    assert suite.name == "mine" and [t.name for t in suite.tasks] == ["copper"]
    one = suite.tasks[0]
    assert one.settings.cell is True and one.limits == {"volume_error": 5} and one.source == "ref.json"
    assert list(one.scores) == ["energy_error", "volume_error"]
    assert len(one.structures) == 1 and str(one.structures[0].symbols) == "Cu"
    assert suite.run(EMT()).passed


@pytest.mark.parametrize(
    "change, expected, code",
    [
        ({"workflow": "relaxx"}, "no workflow 'relaxx'; did you mean 'relax'?", 2),
        ({"workflow": "zzz"}, "no workflow 'zzz'; expected one of", 2),
        ({"structure": "nickel.vasp"}, "nickel.vasp: no such file", 3),
        ({"structure": "ref.json"}, "ref.json: frame 0 cannot be read", 3),
        ({"structure": ["cu.vasp", "cu.vasp"]}, "gives 2 structure(s); nff relax takes 1: atoms", 2),
        ({"structure": []}, "structure: ", 2),
        ({"settings": {"fmaxx": 1}}, "settings: fmaxx: unknown name; did you mean 'fmax'?", 2),
        ({"settings": {"fmax": -1}}, "settings: fmax: should be greater than 0, got -1", 2),
        ({"settings": {"pressure": 1, "cell": False}}, "settings: pressure needs the cell to move", 2),
        ({"settings": 3}, "settings: should be a valid dictionary, got 3", 2),
        ({"referense": "ref.json"}, "referense: unknown name; did you mean 'reference'?", 2),
        ({"reference": "none.json"}, "none.json: cannot be read (No such file or directory)", 2),
        ({"reference": "cu.vasp"}, "cu.vasp: not JSON", 2),
        ({"limits": {"volume_eror": 1}}, "no score 'volume_eror' with this reference; did you mean", 2),
        ({"limits": {"volume_error": -1}}, "limits.volume_error: should be greater than or equal to 0", 2),
        ({"limits": {"volume_error": float("nan")}}, "limits.volume_error: ", 2),
        ({"limits": {"volume_error": float("inf")}}, "limits.volume_error: ", 2),
        ({"scores": ["length_mae"]}, "no score 'length_mae' with this reference", 2),
        ({"scores": ["energy_error"]}, "volume_error has a limit but is not among the scores chosen", 2),
        ({"reference": None, "limits": {}}, "nothing to score; give a reference", 2),
    ],
    ids=str,
)
def test_a_wrong_entry_is_one_line_with_file_and_task(folder, change, expected, code, monkeypatch):
    write(folder, [{**entry_of(folder), **change}])
    text, found = message_of(folder)
    assert text.startswith(f"{folder / 'suite.yaml'}: task copper: ") and expected in text and found == code
    assert text.count("task copper") == 1
    monkeypatch.chdir(folder)
    assert message_of(".")[0].startswith("suite.yaml: task copper: ")


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "expected 'tasks:'"),
        ("- a\n- b\n", "expected 'tasks:'"),
        ("tasks: [", "not valid YAML"),
        ("tasks: []", "tasks: "),
        ("tasks: 3", "tasks: should be a valid list, got 3"),
        ("tasks: [3]", "task 1: "),
        ("tasks: [{workflow: relax, structure: cu.vasp}]", "task 1: name: is missing"),
        ("tasks: [{name: a b, workflow: relax, structure: cu.vasp}]", "task a b: name: "),
        ("tasks: [{name: a, structure: cu.vasp}]", "task a: workflow: is missing"),
        ("tasks: [{name: a, workflow: relax}]", "task a: structure: is missing"),
        ("task: []", "task: unknown name; did you mean 'tasks'?"),
        ("version: 99\ntasks: []", "is of version 99; this nfflr reads up to 1; update nfflr"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
    ids=str,
)
def test_a_wrong_file_is_one_line_too(folder, content, expected):
    path = folder / "suite.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text, code = message_of(folder)
    assert text.startswith(f"{path}: ") and expected in text and code == 2


def test_a_suite_may_say_its_version(folder):
    (folder / "suite.yaml").write_text("version: 1\n" + (folder / "suite.yaml").read_text())
    assert [task.name for task in read_suite(folder).tasks] == ["copper"]


def test_a_folder_without_a_suite_and_two_tasks_of_one_name(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"has no suite.yaml"):
        read_suite(tmp_path)
    with pytest.raises(ConfigError, match=r"has no suite.yaml"):
        read_suite(folder / "cu.vasp")
    write(folder, [entry_of(folder)] * 2)
    text, _ = message_of(folder)
    assert text.startswith(f"{folder / 'suite.yaml'}: ") and "two tasks are called 'copper'" in text


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"workflow": "eos"}, "holds eos result; expected one of nff relax"),
        ({"workflow": None}, "workflow: should be a text"),
        ({"result": [1]}, "result: should be a valid dictionary"),
        ({"result": {"volum": 11.8}}, "'volum' is no field of a relax result; did you mean 'volume'?"),
        ({"result": {"volume": "big"}}, "volume is missing or of the wrong type"),
        ({"result": {"cell": ["a", "b"]}}, "cell is missing or of the wrong type"),
        ({"result": {"cell": [[1], [1, 2]]}}, "cell is missing or of the wrong type"),
        ({"result": {"cell": {"a": 1}}}, "cell is missing or of the wrong type"),
        ({"units": {"volume": "nm^3"}}, "volume is in nm^3; expected Å^3: convert the numbers"),
        ({"units": {"energy": "eV/atom"}}, "energy is in eV/atom; expected eV: convert the numbers"),
        ({"units": {"steps": "fs"}}, "steps is in fs; expected no unit"),
        ({"units": "SI"}, "units: should be a valid dictionary"),
    ],
    ids=str,
)
def test_a_wrong_reference_is_refused(folder, change, expected):
    path = folder / "ref.json"
    path.write_text(json.dumps({**REFERENCE, **change}))
    text, code = message_of(folder)
    assert text.startswith(f"{folder / 'suite.yaml'}: task copper: {path}: ") and expected in text
    assert code == 2


def test_frequencies_in_other_units_are_refused(folder):
    result = {"band_qpoints": [[0, 0, 0]], "band_frequencies": [[0, 0, 0]]}
    record = {"workflow": "phonons", "result": result, "units": {"band_frequencies": "1/cm"}}
    (folder / "ref.json").write_text(json.dumps(record))
    write(folder, [{**entry_of(folder), "workflow": "phonons", "settings": {}, "limits": {}}])
    assert "band_frequencies is in 1/cm; expected THz" in message_of(folder)[0]


def test_a_structure_that_is_not_finite_is_refused(folder):
    text = (folder / "cu.vasp").read_text().splitlines()
    text[-1] = "nan 0.0 0.0"
    (folder / "cu.vasp").write_text("\n".join(text) + "\n")
    with pytest.raises(StructureError, match=r"task copper: .*cu.vasp: "):
        read_suite(folder)


def test_a_reference_by_hand_needs_only_the_fields_it_scores(folder):
    (folder / "ref.json").write_text('{"workflow": "relax", "result": {"volume": 11.8}, "source": "a book"}')
    outcome = read_suite(folder).run(EMT()).outcomes[0]
    assert list(outcome.scores) == ["volume_error"] and outcome.record()["reference"] == "a book"
    assert outcome.scores["volume_error"] == pytest.approx(100 * abs(outcome.result.volume / 11.8 - 1))


def test_files_among_the_settings_are_those_of_the_folder(folder):
    (folder / "BORN").write_text("")
    write(
        folder,
        [
            {
                "name": "polar",
                "workflow": "phonons",
                "structure": "cu.vasp",
                "settings": {"born": "BORN"},
                "reference": "p.json",
            }
        ],
    )
    result = {"band_qpoints": [[0, 0, 0]], "band_frequencies": [[0, 0, 0]]}
    (folder / "p.json").write_text(json.dumps({"workflow": "phonons", "result": result}))
    assert read_suite(folder).tasks[0].settings.born == folder / "BORN"


def test_a_path_of_two_structures_is_scored_against_its_own_result(folder):
    start = bulk("Cu", cubic=True).repeat((2, 1, 1))
    filled = start.positions[1].copy()
    del start[1]
    end = start.copy()
    end.positions[0] = filled
    start.write(folder / "start.vasp")
    end.write(folder / "end.vasp")
    settings = {"images": 1, "climb": False, "fmax": 0.2, "steps": 60}
    workflow = find_workflow("neb")
    entry = {"name": "hop", "workflow": "neb", "structure": ["start.vasp", "end.vasp"], "settings": settings}
    write(folder, [{**entry, "reference": "hop.json"}])
    (folder / "hop.json").write_text('{"workflow": "neb", "result": {"barrier": 0.0}}')
    structures = read_suite(folder).tasks[0].structures
    result = workflow.function(*structures, EMT(), workflow.settings(**settings))
    assert result.barrier > 0.01
    (folder / "hop.json").write_text(json.dumps({"workflow": "neb", **result_record(result)}))
    outcome = read_suite(folder).run(EMT()).outcomes[0]
    assert outcome.status == "scored", outcome.message
    assert set(outcome.scores.values()) == {0.0} and "energies_mae" in outcome.scores


# The suite that comes with mlearn-si


@pytest.mark.parametrize("name", ["mlearn-si"])
def test_the_shipped_calculator_passes_its_suite(name):
    report = read_suite(SHIPPED).run(NFFLrCalculator.load(name))
    assert report.passed and report.coverage == 1
    scores = report.scores()
    told = read_card(SHIPPED.parent).suite.results
    for score in ("elastic/clamped_mae", "phonons/frequency_mae", "eos/bulk_modulus_error"):
        assert scores[score] == pytest.approx(told[score], rel=0.05)
    assert scores["lattice/length_mae"] == pytest.approx(told["lattice/length_mae"], abs=1e-4)
    assert scores["hot/lost_fraction"] == 0


def test_all_of_the_shipped_suite_is_there_and_explained():
    text = (SHIPPED / "README.md").read_text()
    for one in read_suite(SHIPPED).tasks:
        assert f"| {one.name} |" in text and one.limits
    for path in SHIPPED.glob("*.json"):
        assert "source" in json.loads(path.read_text()) and json.loads(path.read_text())["units"]


def test_the_shipped_frequencies_have_sum_rules_and_degeneracies_of_diamond():
    record = json.loads((SHIPPED / "phonons.json").read_text())["result"]
    gamma, x, point_l, w = np.array(record["band_frequencies"])
    assert gamma[:3] == pytest.approx(0, abs=0.01) and np.ptp(gamma[3:]) < 1e-3
    for pairs in (x, w):
        assert pairs[::2] == pytest.approx(pairs[1::2], abs=1e-4)
    assert point_l[0] == pytest.approx(point_l[1], abs=1e-4)
