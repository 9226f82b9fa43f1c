"""Ionic steps whose electrons did not converge are no training data."""

import gzip
from pathlib import Path

import ase.test
import numpy as np
import pytest

from nfflr.cli.main import run
from nfflr.data.records import read_records
from nfflr.errors import StructureError

OUTCAR = Path(ase.test.__file__).parent / "testdata/vasp/OUTCAR_example_1"
LOOP = "aborting loop because EDIFF is reached"
SCF = '<scstep><energy><i name="e_fr_energy">{0}</i><i name="e_0_energy">{0}</i></energy></scstep>'
HEAD = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<incar><i type="int" name="NELM">{nelm}</i><i name="EDIFFG">-0.01</i></incar>
<kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
<parameters><separator name="electronic"><i type="int" name="NELM">{nelm}</i><i name="EDIFF">1e-05</i>
<i name="EDIFFG">-0.01</i></separator></parameters>
<atominfo><atoms>2</atoms>
<array name="atoms"><set><rc><c>Si</c></rc><rc><c>Si</c></rc></set></array></atominfo>
<structure name="initialpos">{structure}</structure>
"""
STRUCTURE = """<crystal><varray name="basis">
<v>0 2.7 2.7</v><v>2.7 0 2.7</v><v>2.7 2.7 0</v></varray></crystal>
<varray name="positions"><v>0 0 0</v><v>0.26 0.25 0.25</v></varray>"""
STEP = """<calculation>{scf}<structure>{structure}</structure>
<varray name="forces"><v>0.1 0 0</v><v>-0.1 0 0</v></varray>
<energy><i name="e_fr_energy">{energy}</i><i name="e_0_energy">{energy}</i></energy></calculation>
"""


def vasprun(path, steps, nelm=6):
    """A run whose ionic steps have these numbers of electronic steps and last energy changes (eV)."""
    text = HEAD.format(nelm=nelm, structure=STRUCTURE)
    for k, (count, change) in enumerate(steps):
        energies = [-10.0 - k + 0.1 * j for j in range(count - 1, 0, -1)] + [-10.0 - k - change + 0.1]
        scf = "".join(SCF.format(energy) for energy in energies)
        text += STEP.format(scf=scf, structure=STRUCTURE, energy=energies[-1])
    path.write_text(text + "</modeling>\n")
    return path


def test_steps_that_stopped_at_nelm_are_left_out_with_a_note(tmp_path, caplog):
    # converged; at NELM but converged; not; before NELM with a rough EDIFF of its own; not
    steps = [(3, 1e-6), (6, 1e-6), (6, 1e-3), (4, 1e-3), (6, -0.2)]
    path = vasprun(tmp_path / "vasprun.xml", steps)
    records = list(read_records(path))
    assert [record.id for record in records] == [f"vasprun.xml[{k}]" for k in (0, 1, 3)]
    energies = [-10.0 - k - steps[k][1] + 0.1 for k in (0, 1, 3)]
    assert [float(record.labels["total_energy"]) for record in records] == pytest.approx(energies)
    assert (
        "2 of 5 ionic steps stopped at NELM without reaching EDIFF (2, 4); they are left out" in caplog.text
    )


def test_one_electronic_step_shows_no_change_and_counts(tmp_path, caplog):
    assert len(read_records(vasprun(tmp_path / "vasprun.xml", [(1, 0.0)], nelm=1))) == 1
    assert caplog.text == ""


def test_a_run_in_which_nothing_converged_is_refused(tmp_path, capsys):
    path = vasprun(tmp_path / "vasprun.xml", [(6, 0.1), (6, 0.2)])
    with pytest.raises(StructureError, match="2 of 2 ionic steps .* none is left"):
        read_records(path)
    assert run(["init", str(path), "-o", str(tmp_path / "out")]) == 3
    assert "none is left, converge them with a larger NELM" in capsys.readouterr().err


def outcar(folder, loops, name="OUTCAR"):
    """ASE's real OUTCAR with its ionic step repeated, each step's electronic loop ended as said."""
    lines = OUTCAR.read_text().splitlines(keepends=True)
    start = next(k for k, line in enumerate(lines) if " Iteration " in line)
    end = next(k for k, line in enumerate(lines) if "General timing" in line)
    step = "".join(lines[start:end])
    assert step.count(LOOP) == 1
    text = "".join(lines[:start]) + "".join(step.replace(LOOP, loop) for loop in loops) + "".join(lines[end:])
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["OUTCAR", "OUTCAR.gz"])
def test_an_outcar_says_how_each_loop_ended(tmp_path, name, caplog):
    loops = [
        LOOP,
        "aborting loop EDIFF was not reached (unconverged)",
        "aborting loop because hard stop was set",
        LOOP,
    ]
    records = list(read_records(outcar(tmp_path, loops, name)))
    assert [record.id[-2] for record in records] == ["0", "3"]
    assert "2 of 4 ionic steps" in caplog.text and "(1, 2)" in caplog.text


def test_an_outcar_of_vasp_5_says_nothing_of_a_loop_that_ran_out(tmp_path, caplog):
    path = outcar(tmp_path, [LOOP, "", LOOP])
    count = path.read_text().count(" Iteration ") // 3
    assert len(read_records(path)) == 3  # ended before NELM = 120, by whatever made it
    path.write_text(path.read_text().replace("NELM   =    120", f"NELM   =    {count:3d}"))
    records = list(read_records(path))
    assert [record.id[-2] for record in records] == ["0", "2"]
    assert np.allclose(records[0].labels["forces"], records[1].labels["forces"])
