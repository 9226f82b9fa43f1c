"""JSON of pymatgen's structures and of the data sets that are made of them."""

import gzip
import json

import ase
import ase.units
import numpy as np
import pytest
from ase.build import bulk, molecule
from builders import copper

from nfflr.data.records import read_records
from nfflr.errors import StructureError
from nfflr.structures.readers import read_structure, read_structures


def site(symbol, abc, xyz, properties=None, **species):
    return {
        "species": [{"element": symbol, "occu": 1, **species}],
        "abc": list(map(float, abc)),
        "xyz": list(map(float, xyz)),
        "label": symbol,
        "properties": properties or {},
    }


def as_dict(atoms, properties=None) -> dict:
    """A structure as pymatgen's ``Structure.as_dict`` has it; ``abc`` within the cell."""
    properties = properties or [{} for _ in atoms]
    scaled = atoms.get_scaled_positions(wrap=True)
    rows = zip(atoms.symbols, scaled, atoms.positions, properties, strict=True)
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {"matrix": atoms.cell.array.tolist(), "pbc": atoms.pbc.tolist()},
        "sites": [site(*row) for row in rows],
    }


def kbar(atoms):
    """Stress (3, 3) as VASP prints it: kbar, pressure positive."""
    return (-atoms.get_stress(voigt=False) / ase.units.GPa * 10).tolist()


def mptrj(structures):
    found = {}
    for k, atoms in enumerate(structures):
        energy = atoms.get_potential_energy()
        found.setdefault(f"mp-{k // 2}", {})[f"mp-{k // 2}-0-{k}"] = {
            "structure": as_dict(atoms),
            "uncorrected_total_energy": energy + 1.5,
            "corrected_total_energy": energy,
            "energy_per_atom": energy / len(atoms),
            "force": atoms.get_forces().tolist(),
            "stress": kbar(atoms),
            "magmom": [0.5] * len(atoms),
            "bandgap": 0.25 * k,
        }
    return found


def matpes(structures, name=True):
    return [
        {
            **({"matpes_id": f"matpes-{k}"} if name else {}),
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
            "stress": np.array(kbar(atoms)).flat[[0, 4, 8, 5, 2, 1]].tolist(),
            "structure": as_dict(atoms),
            "bandgap": 0.25 * k,
        }
        for k, atoms in enumerate(structures)
    ]


def write(path, content):
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("form", [mptrj, matpes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_data_sets_are_in_ases_units_and_signs(tmp_path, form, ending):
    structures = copper(4)
    path = write(tmp_path / f"set.{ending}", form(structures))
    records = read_records(path, ("total_energy", "forces", "stress", "bandgap"))
    assert len(records) == 4 and len({r.id for r in records}) == 4
    for k, (record, atoms) in enumerate(zip(records, structures, strict=True)):
        assert record.atoms.get_all_distances(mic=True) == pytest.approx(
            atoms.get_all_distances(mic=True), abs=1e-12
        )
        assert record.labels["total_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert record.labels["forces"] == pytest.approx(atoms.get_forces(), abs=1e-12)
        assert record.labels["stress"] == pytest.approx(atoms.get_stress(voigt=False), abs=1e-12)
        assert record.labels["bandgap"] == 0.25 * k
    identifiers = {"mptrj": "[mp-0-0-0]", "matpes": "[matpes-0]"}
    assert records[0].id.endswith(identifiers[form.__name__])


def test_energy_per_atom_is_taken_where_no_total_is_corrected(tmp_path):
    (atoms,) = copper(1)
    content = mptrj([atoms])
    del content["mp-0"]["mp-0-0-0"]["corrected_total_energy"]
    (record,) = read_records(write(tmp_path / "a.json", content))
    assert record.labels["total_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)


def test_stress_of_an_unnamed_set_is_asked_for(tmp_path, caplog):
    structures = copper(2)
    path = write(tmp_path / "mine.json", matpes(structures, name=False))
    record = read_records(path)[0]
    assert set(record.labels) == {"total_energy", "forces"} and "stresses are left out" in caplog.text
    record = read_records(path, stress_units="kbar", stress_sign=-1, stress_order="voigt")[0]
    assert record.labels["stress"] == pytest.approx(structures[0].get_stress(voigt=False), abs=1e-12)


def test_json_lines_and_entries_of_computed_structures(tmp_path):
    structures = copper(2)
    rows = [
        {"@class": "ComputedStructureEntry", "energy": a.get_potential_energy(), "structure": as_dict(a)}
        for a in structures
    ]
    path = tmp_path / "entries.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    energies = [float(r.labels["total_energy"]) for r in read_records(path, ("total_energy",))]
    assert energies == pytest.approx([a.get_potential_energy() for a in structures], abs=1e-12)


def test_site_properties_are_kept_and_oxidation_states_left_out(tmp_path):
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    velocity = 0.003  # Å/fs
    properties = [
        {"magmom": 1.0, "charge": 0.5, "velocities": [velocity, 0, 0], "selective_dynamics": [False] * 3},
        {"magmom": -1.0, "charge": -0.5, "velocities": [0, 0, 0], "selective_dynamics": [True, False, True]},
    ]
    content = as_dict(atoms, properties)
    for k, state in enumerate((1, -1)):
        content["sites"][k]["species"][0]["oxidation_state"] = state
    content["sites"][0]["species"][0]["element"] = "Na+"
    read = read_structure(write(tmp_path / "salt.json", content))
    assert read.symbols.get_chemical_formula() == "ClNa"
    assert read.get_initial_magnetic_moments().tolist() == [1, -1]
    assert read.get_initial_charges().tolist() == [0.5, -0.5]
    energy = 0.5 * 22.98976928 * velocity**2 * (1e5 * 1e5 * ase.units._amu / ase.units._e)  # m v²/2 in eV
    assert read.get_kinetic_energy() == pytest.approx(energy, rel=1e-6)
    moved = read.copy()
    moved.set_positions(read.positions + 0.1 * read.cell.array.sum(0))
    steps = (moved.positions - read.positions) @ np.linalg.inv(read.cell.array)
    assert steps == pytest.approx(np.array([[0, 0, 0], [0.1, 0, 0.1]]), abs=1e-10)


def test_molecules_and_partly_periodic_lattices(tmp_path):
    water = molecule("H2O")
    content = {
        "@class": "Molecule",
        "charge": 1,
        "spin_multiplicity": 2,
        "sites": [
            {"species": [{"element": s, "occu": 1}], "xyz": list(x)}
            for s, x in zip(water.symbols, water.positions, strict=True)
        ],
    }
    read = read_structure(write(tmp_path / "water.json", content))
    assert read.positions == pytest.approx(water.positions) and not read.pbc.any()
    assert read.info["charge"] == 1 and read.info["spin_multiplicity"] == 2
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    assert read_structure(write(tmp_path / "slab.json", as_dict(slab))).pbc.tolist() == [True, True, False]


def disordered(content):
    content["sites"][0]["species"] = [{"element": "Cu", "occu": 0.5}, {"element": "Au", "occu": 0.5}]


def vacant(content):
    content["sites"][0]["species"][0]["occu"] = 0.9


def contradiction(content):
    content["sites"][1]["xyz"][0] += 0.2


def unknown(content):
    content["sites"][0]["species"][0]["element"] = "Xx"


def infinite(content):
    content["lattice"]["matrix"][0][0] = float("inf")


def nameless(content):
    content["sites"][0]["properties"] = 3


def shapeless(content):
    content["lattice"]["matrix"] = [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "change, message",
    [
        (disordered, "site 0 is partially occupied .*Au 0.5.*ordered"),
        (vacant, "site 0 is partially occupied"),
        (contradiction, "site 1 lies at .* by 'abc'"),
        (unknown, "site 0 has the unknown element 'Xx'"),
        (infinite, "lattice matrix is not finite"),
        (nameless, "is malformed"),
        (shapeless, r"lattice matrix has shape \(2, 2\), expected \(3, 3\)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_no_structure_is_refused_with_its_frame(tmp_path, change, message):
    contents = [as_dict(atoms) for atoms in copper(2)]
    change(contents[1])
    with pytest.raises(StructureError, match=rf"bad\.json: frame 1.*: {message}"):
        read_structures(write(tmp_path / "bad.json", contents))


def test_a_cut_file_names_its_line(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(as_dict(copper(1)[0]), indent=1)[:-200])
    with pytest.raises(StructureError, match=r"cut\.json: line \d+ is not JSON .*truncated"):
        read_structures(path)


def test_jarvis_records_stay_what_they_are(tmp_path):
    atoms = bulk("Cu", cubic=True)
    frame = {
        "lattice_mat": atoms.cell.array.tolist(),
        "coords": atoms.get_scaled_positions().tolist(),
        "elements": list(atoms.symbols),
        "cartesian": False,
    }
    path = write(tmp_path / "jarvis.json", [{"jid": "JVASP-1", "atoms": frame, "gap": 0.5}])
    (record,) = read_records(path, ("gap",))
    assert record.id == "jarvis.json[0:JVASP-1]" and record.labels["gap"] == 0.5
