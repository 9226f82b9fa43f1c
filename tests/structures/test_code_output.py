"""Output of electronic-structure programs: their labels, and runs that did not converge or were cut off.

The files are the lines that ASE's parsers look for, around numbers of our own. Units and signs are compared
with the programs' own: hartree, Rydberg and bohr by CODATA, and the pressure that ABINIT and pw.x state.
"""

import gzip
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.units import GPa

from nfflr.data.records import read_records
from nfflr.errors import StructureError
from nfflr.structures.readers import read_structures

HARTREE, RYDBERG, BOHR = 27.211386, 13.605693, 0.529177211
AIMS = Path(ase.__file__).parent / "test" / "testdata" / "aims"

ESPRESSO = """
     Program PWSCF v.7.2 starts on  1Jan2024 at 12: 0: 0

     bravais-lattice index     =            0
     lattice parameter (alat)  =      10.0000  a.u.
     unit-cell volume          =    1000.0000 (a.u.)^3
     number of atoms/cell      =            2
     number of atomic types    =            1

     celldm(1)=  10.000000  celldm(2)=   0.000000  celldm(3)=   0.000000
     celldm(4)=   0.000000  celldm(5)=   0.000000  celldm(6)=   0.000000

     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   1.000000 )

   Cartesian axes

     site n.     atom                  positions (alat units)
         1           Si  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Si  tau(   2) = (   0.2500000   0.2500000   0.2500000  )

!    total energy              =     -22.83801454 Ry

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.00100000   -0.00200000    0.00300000
     atom    2 type  1   force =    -0.00100000    0.00200000   -0.00300000

     Total force =     0.005292     Total SCF correction =     0.000000

     Computing stress (Cartesian axis) and pressure

          total   stress  (Ry/bohr**3)                   (kbar)     P=      147.11
   0.00100000  0.00010000  0.00000000          147.11       14.71        0.00
   0.00010000  0.00100000  0.00000000           14.71      147.11        0.00
   0.00000000  0.00000000  0.00100000            0.00        0.00      147.11

"""
ESPRESSO_END = "   JOB DONE.\n"

ORCA = """
                                 * O   R   C   A *

Number of atoms                             ...      2

---------------------------------
CARTESIAN COORDINATES (ANGSTROEM)
---------------------------------
  H      0.000000    0.000000    0.000000
  H      0.000000    0.000000    0.740000

-------------------------   --------------------
FINAL SINGLE POINT ENERGY        -1.160000000000
-------------------------   --------------------

------------------
CARTESIAN GRADIENT
------------------

   1   H   :    0.000000000    0.000000000   -0.010000000
   2   H   :    0.000000000    0.000000000    0.010000000

"""
ORCA_END = "                             ****ORCA TERMINATED NORMALLY****\n"

ABINIT = """
.Version 8.10.3 of ABINIT
 -outvars: echo values of preprocessed input variables --------
            natom           2
           ntypat           1
            rprim      6.0000000000E+00  0.0000000000E+00  0.0000000000E+00
                       0.0000000000E+00  6.0000000000E+00  0.0000000000E+00
                       0.0000000000E+00  0.0000000000E+00  6.0000000000E+00
            typat      1  1
            znucl        8.00000
================================================================================
 ----iterations are completed or convergence reached----
 cartesian coordinates (angstrom) at end:
    1      0.00000000000000     0.00000000000000     0.00000000000000
    2      1.20000000000000     0.00000000000000     0.00000000000000
 cartesian forces (eV/Angstrom) at end:
    1     -0.10000000000000    -0.00000000000000    -0.00000000000000
    2      0.10000000000000    -0.00000000000000    -0.00000000000000
 Components of total free energy (in Hartree) :
    >>>>>>>>> Etotal= -3.20000000000000E+01
 Cartesian components of stress tensor (hartree/bohr^3)
  sigma(1 1)= -1.00000000E-04  sigma(3 2)=  1.00000000E-05
  sigma(2 2)= -2.00000000E-04  sigma(3 1)=  2.00000000E-05
  sigma(3 3)= -3.00000000E-04  sigma(2 1)=  3.00000000E-05
-Cartesian components of stress tensor (GPa)         [Pressure=  5.8842E+00 GPa]
"""
ABINIT_END = " Calculation completed.\n"

WHOLE = {"pw.out": ESPRESSO + ESPRESSO_END, "orca.out": ORCA + ORCA_END, "run.abo": ABINIT + ABINIT_END}


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def pressure(labels):
    return -np.trace(labels["stress"]) / 3 / GPa


def test_quantum_espresso(tmp_path):
    (record,) = read_records(write(tmp_path, "pw.out", ESPRESSO + ESPRESSO_END))
    assert record.labels["total_energy"] == pytest.approx(-22.83801454 * RYDBERG, rel=1e-6)
    assert record.labels["forces"][0] == pytest.approx(np.array([1, -2, 3]) * 1e-3 * RYDBERG / BOHR, rel=1e-6)
    assert pressure(record.labels) == pytest.approx(14.711, rel=1e-4)  # P = 147.11 kbar
    assert record.labels["stress"][0, 1] == pytest.approx(-1e-4 * RYDBERG / BOHR**3, rel=1e-6)


def test_orca(tmp_path):
    (record,) = read_records(write(tmp_path, "orca.out", ORCA + ORCA_END))
    assert record.labels["total_energy"] == pytest.approx(-1.16 * HARTREE, rel=1e-6)
    assert record.labels["forces"][1, 2] == pytest.approx(-0.01 * HARTREE / BOHR, rel=1e-6)
    assert not record.atoms.pbc.any()


def test_abinit(tmp_path):
    (record,) = read_records(write(tmp_path, "run.abo", ABINIT + ABINIT_END))
    assert record.labels["total_energy"] == pytest.approx(-32 * HARTREE, rel=1e-6)
    assert record.labels["forces"][1].tolist() == [0.1, 0, 0]
    assert pressure(record.labels) == pytest.approx(5.8842, rel=1e-4)  # as ABINIT states it
    assert record.labels["stress"][0, 1] == pytest.approx(3e-5 * HARTREE / BOHR**3, rel=1e-6)


@pytest.mark.skipif(not AIMS.is_dir(), reason="ASE is installed without its tests")
def test_fhi_aims_without_a_word_on_stderr():
    (record,) = read_records(AIMS / "singlepoint.out")
    assert set(record.labels) == {"total_energy", "forces"}
    assert record.labels["total_energy"] == pytest.approx(-2063.02, abs=0.01)
    assert len(read_records(AIMS / "relax.out")) == 8
    code = f"from nfflr.structures.readers import read_structures as r; r({str(AIMS / 'relax.out')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""


@pytest.mark.parametrize("name", WHOLE)
def test_compressed_output_and_structures_alone(tmp_path, name):
    plain = write(tmp_path, name, WHOLE[name])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(WHOLE[name].encode()))
    for path in (plain, packed):
        (atoms,) = read_structures(path)
        assert len(atoms) == 2
    assert read_records(packed)[0].labels.keys() == read_records(plain)[0].labels.keys()


@pytest.mark.parametrize(
    "name, line",
    [
        ("pw.out", "     convergence NOT achieved after 100 iterations: stopping\n"),
        ("orca.out", "FINAL SINGLE POINT ENERGY  -1.1  (Wavefunction not fully converged!)\n"),
        ("run.abo", " scprqt:  WARNING - nstep= 5 was not enough SCF cycles to converge;\n"),
    ],
)
def test_a_step_that_did_not_converge_is_refused_by_its_line(tmp_path, name, line):
    text = WHOLE[name]
    place = len(text) - len(text.splitlines()[-1]) - 1
    path = write(tmp_path, name, text[:place] + line + text[place:])
    number = text[:place].count("\n") + 1
    with pytest.raises(StructureError, match=f"line {number}: self-consistency was not reached"):
        read_records(path)


def test_a_run_without_an_end_gives_its_whole_steps_with_a_note(tmp_path, caplog):
    (record,) = read_records(write(tmp_path, "pw.out", ESPRESSO))
    assert "stress" in record.labels and "has no end; its 1 complete steps" in caplog.text
    second = ESPRESSO[ESPRESSO.index("!    total") :]
    moved = "ATOMIC_POSITIONS (alat)\nSi 0.0 0.0 0.0\nSi 0.26 0.25 0.25\n\n"
    cut = second[: second.index("     Computing stress")]
    path = write(tmp_path, "relax.out", ESPRESSO + moved + cut)
    with pytest.raises(StructureError, match=r"relax\.out: the last frame has no stress; .*cut off"):
        read_records(path)
    assert len(read_records(write(tmp_path, "relax.out", ESPRESSO + moved + second))) == 2
    path = write(tmp_path, "inside.out", (ESPRESSO + moved + second)[:-60])
    with pytest.raises(StructureError, match="inside.out: ends inside a line"):
        read_records(path)


@pytest.mark.skipif(not AIMS.is_dir(), reason="ASE is installed without its tests")
def test_gpaw_that_was_cut_off_inside_a_line(tmp_path):
    text = (AIMS.parent / "gpaw_expected_text_output").read_text()
    (record,) = read_records(write(tmp_path, "gpaw.txt", text))
    assert set(record.labels) == {"total_energy", "forces"}
    place = text.index("Forces in eV/Ang") + 40
    with pytest.raises(StructureError, match=r"gpaw\.txt: ends inside a line"):
        read_records(write(tmp_path, "gpaw.txt", text[:place]))


def test_cp2k_is_refused_with_a_way_out(tmp_path):
    text = "  **** ****  PROGRAM STARTED AT  2024-01-01\n CP2K| version string: CP2K version 2023.1\n"
    with pytest.raises(StructureError, match="cp2k.out: output of CP2K is not read; convert it with dpdata"):
        read_structures(write(tmp_path, "cp2k.out", text))
