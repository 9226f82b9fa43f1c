"""MD17 and rMD17: trajectories of a molecule whose unit is asked for."""

import ase.units
import numpy as np
import pytest
from ase.build import molecule

from nfflr.data.quality.diagnosis import diagnose
from nfflr.data.records import read_records
from nfflr.errors import ConfigError, StructureError
from nfflr.structures.readers import read_structures

NAMES = {
    "md17": {"z": "z", "R": "R", "E": "E", "F": "F"},
    "rmd17": {"z": "nuclear_charges", "R": "coords", "E": "energies", "F": "forces"},
}
KCAL = ase.units.kcal / ase.units.mol  # eV


def write(folder, names="rmd17", **more):
    """Ethanol about its rest position, springs as its potential, in kcal/mol."""
    rng = np.random.default_rng(0)
    atoms = molecule("CH3CH2OH")
    steps = 0.05 * rng.normal(size=(6, len(atoms), 3))
    arrays = {
        "z": atoms.numbers.astype(np.uint8),
        "R": atoms.positions + steps,
        "E": -97000 + 50 * (steps**2).sum((1, 2)),
        "F": -100 * steps,
    }
    arrays["E"] = arrays["E"].reshape(-1, 1) if names == "md17" else arrays["E"]
    path = folder / "ethanol.npz"
    np.savez(path, **{NAMES[names][k]: v for k, v in arrays.items()}, **more)
    return path, arrays


@pytest.mark.parametrize("names", NAMES)
def test_energies_and_forces_in_the_unit_that_is_given(tmp_path, names):
    path, arrays = write(tmp_path, names)
    records = read_records(path, energy_units="kcal/mol")
    assert len(records) == 6
    for k in range(6):
        labels, positions = records[k].labels, records[k].atoms.positions
        assert positions == pytest.approx(arrays["R"][k]) and not records[k].atoms.pbc.any()
        assert labels["total_energy"] == pytest.approx(arrays["E"].ravel()[k] * KCAL, rel=1e-12)
        assert labels["forces"] == pytest.approx(arrays["F"][k] * KCAL, rel=1e-12)
        assert "stress" not in labels


def test_the_unit_is_asked_for(tmp_path):
    path, _ = write(tmp_path)
    with pytest.raises(ConfigError, match="energy_units.*kcal/mol"):
        read_records(path)
    finding = next(f for f in diagnose(path).findings if f.fatal)
    assert "energy-units" in str(finding) and "kcal/mol" in str(finding)
    assert diagnose(path, energy_units="kcal/mol").usable


def test_structures_alone_need_no_unit(tmp_path):
    path, arrays = write(tmp_path, "md17")
    frames = read_structures(path)
    assert len(frames) == 6 and frames[3].positions == pytest.approx(arrays["R"][3])
    assert frames[0].calc is None


def test_other_units_of_length_and_shapes_are_refused(tmp_path):
    path, _ = write(tmp_path, r_unit=np.array("bohr"))
    with pytest.raises(StructureError, match="lengths are in bohr; convert them to Å"):
        read_records(path, energy_units="Ha")
    np.savez(tmp_path / "short.npz", z=np.ones(3, int), R=np.zeros((2, 4, 3)), E=np.zeros(2))
    with pytest.raises(StructureError, match=r"positions have shape \(2, 4, 3\), expected \(frames, 3, 3\)"):
        read_records(tmp_path / "short.npz", energy_units="eV")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(StructureError, match=r"other\.npz: has no positions; expected an array coords or R"):
        read_structures(tmp_path / "other.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StructureError, match="ethanol.npz: cannot be read"):
        read_records(path, energy_units="eV")
