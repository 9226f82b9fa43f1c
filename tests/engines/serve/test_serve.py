"""``nff serve`` and a real i-PI server.

Messages of i-PI are not consolidated: version 3.3.1 does not survive a connection that is reset in that mode.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixScaled
from ase.io import write

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run

SERVER = Path(sys.prefix, "bin", "i-pi")
INPUT = """<simulation verbosity='low'>
  <output prefix='out'>
    <properties stride='1' filename='log'> [ step, conserved{{electronvolt}}, potential{{electronvolt}},
      virial_md{{ase}} ] </properties>
    <trajectory filename='pos' stride='{steps}' format='ase' bead='0'> positions </trajectory>
    <trajectory filename='force' stride='{steps}' format='ase' bead='0'> forces </trajectory>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 7 </seed> </prng>
  <ffsocket name='ff' mode='unix' pbc='False'>
    <consolidate_messages> False </consolidate_messages>
    <address> {address} </address> <latency> 1e-4 </latency>
  </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='ff'> </force> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def silicon():
    atoms = bulk("Si", a=5.4687, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def client(folder, address, log):
    program = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
    options = ["serve", "--model", "mlearn-si-fast", "start.xyz", "--unix", address, "--dtype", "float64"]
    with log.open("w") as out:
        return subprocess.Popen([sys.executable, "-c", program, *options], cwd=folder, stdout=out, stderr=out)


def simulate(folder, clients=1, beads=1, steps=4, kill=False):
    """i-PI's table of properties, and what each client said; with ``kill`` the first is killed in mid-run."""
    pytest.importorskip("ipi")
    folder.mkdir()
    write(folder / "start.xyz", silicon())
    address = f"nff-{uuid.uuid4().hex[:12]}"
    (folder / "in.xml").write_text(INPUT.format(steps=steps, beads=beads, address=address))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("w") as out:
        server = subprocess.Popen([SERVER, "in.xml"], cwd=folder, env=environment, stdout=out, stderr=out)
    started = [client(folder, address, folder / f"client{k}.log") for k in range(clients)]
    try:
        if kill:
            table = folder / "out.log"
            while not (table.exists() and len(table.read_text().splitlines()) > 9):
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.01)
            started[0].send_signal(signal.SIGKILL)
        assert server.wait(timeout=120) == 0, (folder / "server.log").read_text()
        codes = [one.wait(timeout=30) for one in started]
    finally:
        for process in (server, *started):
            process.kill()
    assert codes == [-9 if kill and k == 0 else 0 for k in range(clients)]
    said = [(folder / f"client{k}.log").read_text() for k in range(clients)]
    return np.loadtxt(folder / "out.log"), said


def evaluations(said):
    return int(said.split("connection after ")[1].split()[0])


def test_one_step_gives_the_calculators_numbers(tmp_path):
    from ase.io import read

    table, (said,) = simulate(tmp_path / "run", steps=2)
    atoms = silicon()
    atoms.calc = NFFLrCalculator.load("mlearn-si-fast", dtype="float64")
    assert table[0, 2] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert evaluations(said) == 3
    last = read(tmp_path / "run" / "out.pos_0.extxyz", "-1")
    forces = read(tmp_path / "run" / "out.force_0.extxyz", "-1")
    atoms.positions = last.positions
    np.testing.assert_allclose(forces.get_forces(), atoms.get_forces(), atol=1e-5)
    order = [0, 1, 2, 5, 4, 3]  # of i-PI: xx, yy, zz, xy, xz, yz
    np.testing.assert_allclose(table[-1, 3:], -atoms.get_stress()[order], rtol=1e-5, atol=1e-9)


def test_beads_are_shared_and_a_killed_client_costs_nothing(tmp_path):
    steps, beads = 40, 4
    alone, _ = simulate(tmp_path / "alone", beads=beads, steps=steps)
    shared, said = simulate(tmp_path / "shared", clients=2, beads=beads, steps=steps)
    killed, after = simulate(tmp_path / "killed", clients=2, beads=beads, steps=steps, kill=True)
    np.testing.assert_array_equal(shared, alone)
    np.testing.assert_array_equal(killed, alone)
    assert len(alone) == steps + 1
    assert np.ptp(alone[:, 1]) < 0.02 * np.ptp(alone[:, 2])  # it was dynamics, and conserved its energy
    counts = [evaluations(text) for text in said]
    assert sum(counts) == beads * (steps + 1)
    assert min(counts) > beads
    assert "connection after" not in after[0]


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (FixAtoms([0, 1]), "constraints of fixed atoms 0 and 1 do not act"),
        (FixScaled([3], (False, False, True)), "constraints of partly fixed atom 3 do not act"),
    ],
)
def test_forces_are_raw_whatever_the_structure_fixes(constraint, words, tmp_path, capsys):
    from ase.calculators.socketio import SocketIOCalculator

    atoms = silicon()
    atoms.set_constraint(constraint)
    write(tmp_path / "si.vasp", atoms)
    atoms.set_constraint()
    address = f"nff-{uuid.uuid4().hex[:12]}"
    options = ["--unix", address, "--dtype", "float64"]
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(
            run(["serve", "--model", "mlearn-si-fast", str(tmp_path / "si.vasp"), *options])
        )
    )
    with SocketIOCalculator(unixsocket=address, timeout=60) as server:
        thread.start()
        atoms.calc = server
        forces, stress = atoms.get_forces(), atoms.get_stress()
    thread.join()
    atoms.calc = NFFLrCalculator.load("mlearn-si-fast", dtype="float64")
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(stress, atoms.get_stress(), atol=1e-12)
    assert np.abs(forces.sum(axis=0)).max() < 1e-6 and np.abs(forces).min() > 0
    assert codes == [0] and words in capsys.readouterr().err


def test_another_number_of_atoms_is_refused(tmp_path, capsys):
    from ase.calculators.socketio import IPIProtocol

    write(tmp_path / "si.xyz", silicon())
    listening = socket.create_server(("127.0.0.1", 0))

    def talk():
        connection, _ = listening.accept()
        protocol = IPIProtocol(connection)
        protocol.status()
        protocol.sendposdata(np.eye(3), np.eye(3), np.zeros((5, 3)))
        connection.recv(1)
        connection.close()

    thread = threading.Thread(target=talk)
    thread.start()
    port = listening.getsockname()[1]
    code = run(["serve", "--model", "mlearn-si-fast", str(tmp_path / "si.xyz"), "--port", str(port)])
    thread.join()
    listening.close()
    assert code == 3
    assert "has 8 atoms, the server's structure 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give one of --unix and --port"),
        (["--unix", "a", "--port", "5"], 2, "give one of --unix and --port"),
        (["--port", "31415", "--host", "192.0.2.1"], 2, "192.0.2.1 is not this machine"),
        (["--unix", "nobody-is-there", "--wait", "0"], 6, "/tmp/ipi_nobody-is-there: nobody listens"),
    ],
)
def test_refusals(options, code, message, tmp_path, capsys):
    write(tmp_path / "si.xyz", silicon())
    assert run(["serve", "--model", "mlearn-si-fast", str(tmp_path / "si.xyz"), *options]) == code
    assert message in capsys.readouterr().err
