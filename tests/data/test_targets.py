"""Targets: scalars, vectors, classes and several of them, by their names in the data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import copper, radius_graph

from nfflr.data.dataset import AtomsDataset, collate, label_tensors
from nfflr.errors import ConfigError, StructureError
from nfflr.quantities import QUANTITIES, Quantity

JARVIS = Path(__file__).parent / "jarvis"
RECORDS = JARVIS / "jarvis_records.json"


def structures(**columns):
    """Copper with values of several kinds; ``columns`` replaces some of them by index."""
    found = copper(8)
    for k, atoms in enumerate(found):
        atoms.info.update(gap=0.25 * k, dipole3=[k, 0.0, -k], phase=["hcp", "fcc", "bcc"][k % 3])
        atoms.info.update(stable=k % 2 == 0, group_number=[225, 2, 10][k % 3])
    for name, changes in columns.items():
        for k, value in changes.items():
            found[k].info[name] = value
    return found


def dataset(target, source=None, **options):
    options = {"n_train": 6, "n_val": 2, "transform": radius_graph, **options}
    return AtomsDataset(source or structures(), target, **options)


def test_the_words_for_force_fields_stand_for_standard_quantities():
    assert dataset("total_energy").quantities == (QUANTITIES["total_energy"],)
    data = dataset("energy_and_forces")
    assert data.targets == ("total_energy", "forces", "stress") and data.classes == {}
    assert data.quantities == tuple(QUANTITIES[name] for name in data.targets)


def test_an_energy_only_task_does_not_read_forces_and_stress():
    found = structures()
    for atoms in found:
        atoms.calc.results.update(
            forces=np.full((1, 3), np.nan), stress=np.full(5, np.inf)
        )  # never looked at
    data = dataset("total_energy", found)
    assert {tuple(r.labels) for r in data.records} == {("total_energy",)}
    labels = data[0][1]
    assert set(labels) == {"total_energy", "n_atoms", "index"}
    assert float(labels["total_energy"]) == found[0].get_potential_energy()


def test_a_scalar():
    data = dataset("gap")
    assert data.targets == ("gap",) and data.classes == {}
    _, labels = collate([data[k] for k in (3, 5)])
    assert labels["gap"].tolist() == [0.75, 1.25] and labels["gap"].dtype == torch.float64
    assert labels["n_atoms"].tolist() == [8, 8] and labels["index"].tolist() == [3, 5]
    assert set(labels) == {"gap", "n_atoms", "index"}


def test_a_vector():
    data = dataset("dipole3")
    assert data.quantities == (Quantity("dipole3", shape=(3,)),)
    _, labels = collate([data[k] for k in (1, 2)])
    assert labels["dipole3"].tolist() == [[1, 0, -1], [2, 0, -2]] and labels["dipole3"].dtype == torch.float64


def test_classes_from_text_truth_values_and_declared_numbers():
    data = dataset(("phase", "stable", "group_number"), classify=("group_number",))
    assert data.classes == {
        "phase": ("bcc", "fcc", "hcp"),
        "stable": ("False", "True"),
        "group_number": ("2", "10", "225"),
    }
    _, labels = collate([data[k] for k in range(4)])
    assert labels["phase"].tolist() == [2, 1, 0, 2] and labels["stable"].tolist() == [1, 0, 1, 0]
    assert labels["group_number"].tolist() == [2, 0, 1, 2]
    assert {labels[name].dtype for name in data.targets} == {torch.int64}
    assert data.records[0].labels["phase"].item() == "hcp"
    assert dataset("group_number").classes == {}  # a number, unless said otherwise


def test_classes_are_those_of_the_whole_data_and_of_the_test_set():
    test = structures(phase={0: "amorphous"})[:1]
    test[0].positions += 0.01
    data = dataset("phase", test_source=test)
    assert data.classes["phase"] == ("amorphous", "bcc", "fcc", "hcp")
    assert int(data[8][1]["phase"]) == 0


def test_a_test_file_is_read_with_the_classes_of_a_model():
    few = structures()[:2]  # hcp and fcc alone
    options = {"n_train": 1, "n_val": 1, "classes": {"phase": ("fcc", "bcc", "hcp")}}
    data = dataset("phase", few, **options)
    assert [int(data[k][1]["phase"]) for k in (0, 1)] == [2, 0]
    few[1].info["phase"] = "fccc"
    with pytest.raises(StructureError, match=r"structures\[1\]: phase is 'fccc'.*did you mean 'fcc'"):
        dataset("phase", few, **options)
    numbers = dataset("group_number", classes={"group_number": ("225", "2", "10")})
    assert [int(numbers[k][1]["group_number"]) for k in (0, 1, 2)] == [0, 1, 2]


def test_several_targets_of_real_data():
    names = ("formation_energy_peratom", "optb88vdw_bandgap")
    data = AtomsDataset(RECORDS, names, allow_missing=True)
    assert data.targets == names and len(data) == 30
    _, labels = collate([data[k] for k in range(4)])
    assert labels["formation_energy_peratom"][:2].tolist() == [-0.71026, -0.00064]
    assert labels["optb88vdw_bandgap"][3].item() == 1.681
    assert torch.isnan(labels["formation_energy_peratom"]).tolist() == [False, False, True, False]


def test_total_energy_among_properties_is_converted_and_its_unit_asked_for():
    path = JARVIS / "ff" / "id_prop.json"
    data = AtomsDataset(path, ("total_energy", "jid"), energy_units="eV/atom", allow_duplicates=True)
    raw = json.loads(path.read_text())[0]["total_energy"]
    assert float(data[0][1]["total_energy"]) == pytest.approx(10 * raw)
    assert data.targets == ("total_energy", "jid")
    assert data.classes["jid"] == tuple(sorted({r["jid"] for r in json.loads(path.read_text())}))
    with pytest.raises(ConfigError, match="per cell or per atom"):
        AtomsDataset(path, ("total_energy", "jid"))


MISSING = [None, np.nan, "na", "NaN", ""]


@pytest.mark.parametrize("value", MISSING, ids=repr)
@pytest.mark.parametrize("name", ["gap", "dipole3", "phase"])
def test_missing_values_are_refused_or_masked(name, value):
    source = structures(**{name: {4: value}})
    with pytest.raises(StructureError, match=rf"structures\[4\]: no {name} label.*allow_missing=True"):
        dataset(name, source)
    data = dataset(name, source, allow_missing=True)
    _, labels = collate([data[3], data[4]])
    if name == "phase":
        assert labels["phase"][1] == -100 and labels["phase"][0] >= 0
        loss = torch.nn.functional.cross_entropy(torch.zeros(2, 3), labels["phase"])
        assert torch.isfinite(loss)
    else:
        assert torch.isnan(labels[name][1]).all() and torch.isfinite(labels[name][0]).all()
        assert labels[name][1].shape == labels[name][0].shape


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("gap", "wide", "gap is a class, elsewhere a number"),
        ("gap", [1.0, 2.0], "gap is a vector of length 2, elsewhere a number"),
        ("gap", np.inf, "gap is not finite"),
        ("gap", {"value": 1}, "gap is {'value': 1}; expected a number, an array of numbers, or a class"),
        ("gap", 1 + 2j, "gap is (1+2j); expected a number"),
        ("gap", [], "gap is []; expected a number"),
        ("gap", [[1.0], [2.0]], "gap is an array of shape (2, 1), elsewhere a number"),
        ("gap", [[1.0], 2.0], "gap is [[1.0], 2.0]; expected a number"),
        ("dipole3", [1.0, 2.0], "dipole3 is a vector of length 2, elsewhere a vector of length 3"),
        ("dipole3", [1.0, np.nan, 2.0], "dipole3 is not finite"),
        ("phase", 3.0, "phase is a number, elsewhere a class"),
    ],
)
def test_a_value_of_another_kind_names_its_record(name, value, message):
    for k in (0, 5):  # the first is not taken for the rule
        with pytest.raises(StructureError) as caught:
            dataset(name, structures(**{name: {k: value}}))
        assert str(caught.value).startswith(f"structures[{k}]: {message}"), str(caught.value)


def test_unknown_targets_get_the_nearest_match():
    for target in ("total_enrgy", "energy_and_force", "energy"):
        with pytest.raises(ConfigError, match=f"target: got '{target}'.*did you mean '(total_e|energy_and)"):
            dataset(target)
    with pytest.raises(ConfigError, match=r"'forces' cannot be a property"):
        dataset("forces")
    with pytest.raises(
        StructureError, match=r"jarvis_records\.json: no record.*did you mean 'formation_e"
    ) as caught:
        AtomsDataset(RECORDS, "formation_energy_per_atom")
    assert caught.value.exit_code == 3
    with pytest.raises(StructureError, match="no record has a value of 'spillage', all are missing"):
        AtomsDataset([*structures(spillage={k: "na" for k in range(8)})], "spillage")
    # A name that is nearly a force-field target, and is in the data, is meant.
    assert AtomsDataset(RECORDS, "optb88vdw_total_energy", allow_missing=True).targets
    with pytest.raises(StructureError, match="did you mean 'optb88vdw_total_energy'"):
        AtomsDataset(RECORDS, "optb88vdw_total_energi")


@pytest.mark.parametrize("target", [(), ("gap", "gap"), "", ("gap", 3)], ids=repr)
def test_targets_that_name_nothing(target):
    with pytest.raises(ConfigError, match="target: got"):
        dataset(target)


def test_options_that_do_not_fit_the_target():
    with pytest.raises(ConfigError, match="classify: 'phse' is not a target.*did you mean 'phase'"):
        dataset("phase", classify=("phse",))
    with pytest.raises(ConfigError, match="classes: 'gap' is not a target"):
        dataset("energy_and_forces", classes={"gap": ("a", "b")})
    with pytest.raises(ConfigError, match="energy_units: 'gap' keeps its own unit"):
        dataset("gap", energy_units="Ha")
    assert dataset("gap", energy_units="eV").targets == ("gap",)  # what the data are in anyway
    with pytest.raises(StructureError, match=r"structures\[0\]: dipole3 is a vector, expected a class"):
        dataset("dipole3", classify="dipole3")


def test_names_can_be_redirected():
    data = dataset(("band_gap", "total_energy"), keys={"band_gap": "gap", "total_energy": "gap"})
    assert [float(data[4][1][name]) for name in data.targets] == [1.0, 1.0]
    with pytest.raises(ConfigError, match="keys: got 'bandgap'.*did you mean 'band_gap'"):
        dataset("band_gap", keys={"bandgap": "gap"})


def test_the_digest_covers_values_and_classes():
    before = dataset(("gap", "phase")).digest()
    assert dataset(("gap", "phase")).digest() == before
    assert dataset(("gap", "phase"), structures(gap={3: 0.75 + 1e-12})).digest() != before
    assert dataset(("gap", "phase"), structures(phase={3: "bcc"})).digest() != before
    assert dataset("gap").digest() != before
    order = {"phase": ("hcp", "fcc", "bcc")}
    assert dataset(("gap", "phase"), classes=order).digest() != before


def test_label_tensors_of_a_force_field_stay_as_they_are():
    record = dataset("energy_and_forces").records[1]
    labels = label_tensors(record)
    assert {k: tuple(v.shape) for k, v in labels.items()} == {
        "total_energy": (), "forces": (8, 3), "stress": (3, 3), "n_atoms": ()
    }  # fmt: skip
