"""An archive gives back what was put in, whole, or says that it cannot."""

import sys
from contextlib import closing, nullcontext
from itertools import count, islice

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory

from nfflr.errors import ConfigError, ResourceError
from nfflr.storage.archives import (
    Archive,
    FolderArchive,
    FrameWriter,
    StoredFrames,
    same_run,
    write_trajectory,
)
from nfflr.workflows.framework.interface import snapshot
from nfflr.workflows.molecular_dynamics import MdSettings


def frame(k):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=k)
    atoms.calc = EMT()
    atoms.get_forces()
    copy = snapshot(atoms)
    copy.set_momenta(copy.positions / 7)
    copy.info = {"step": k, "value": 0.1 * k}
    return copy


FRAMES = [frame(k) for k in range(60)]


def test_records_come_back_with_their_types(tmp_path):
    archive = FolderArchive(tmp_path / "state")
    assert archive.load("x") is None
    record = {"a": np.arange(3, dtype=np.int32), "b": np.array(0.1), "c": np.array("größe"), "a.b": np.eye(2)}
    archive.save("x", {"a": np.zeros(1)})
    archive.save("x", record)
    again = FolderArchive(tmp_path / "state").load("x")
    assert set(again) == set(record)
    for name, value in record.items():
        assert np.array_equal(again[name], value) and again[name].dtype == value.dtype
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["x.npz"]  # no temporary file is left


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_damaged_record_is_refused(tmp_path, place):
    archive = FolderArchive(tmp_path)
    archive.save("x", {"a": np.arange(100.0)})
    path = tmp_path / "x.npz"
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content[: len(content) if place else 50])
    if place == -1:
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ResourceError, match="damaged") as caught:
        archive.load("x")
    assert caught.value.exit_code == 6


def test_a_record_is_never_unpickled(tmp_path):
    archive = FolderArchive(tmp_path)
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object), sha256=np.array("0"))
    with pytest.raises(ResourceError, match="damaged"):
        archive.load("x")


def test_frames_come_back_one_by_one(tmp_path):
    for archive in (Archive(), FolderArchive(tmp_path)):
        assert len(archive.frames()) == 0 and list(archive.frames()) == []
        for atoms in FRAMES[:5]:
            archive.append(atoms)
        found = archive.frames()
        assert len(found) == 5 and [f.info["step"] for f in found] == [0, 1, 2, 3, 4]
        for k in (0, 3, -1):
            assert np.array_equal(found[k].positions, FRAMES[:5][k].positions)
            assert np.array_equal(found[k].get_forces(), FRAMES[:5][k].get_forces())
        assert [f.info["step"] for f in found[1:4:2]] == [1, 3]
        with pytest.raises(IndexError):
            found[5]
        archive.truncate(2)
        archive.append(FRAMES[9])
        assert [f.info["step"] for f in archive.frames()] == [0, 1, 9]
    archive.close()


def test_a_trajectory_that_was_cut_and_continued_is_the_same_file(tmp_path):
    # Frames 1 and 42 are where ASE's table of offsets grows.
    with Trajectory(tmp_path / "whole.traj", "w") as writer:
        for atoms in FRAMES:
            writer.write(atoms)
    archive = FolderArchive(tmp_path / "state")
    for k, atoms in enumerate(FRAMES):
        archive.append(atoms)
        if k in (0, 1, 2, 41, 42, 50):
            archive.append(atoms)  # a frame after the last state that was saved, and half a one
            archive.close()
            with open(tmp_path / "state" / "frames.traj", "ab") as file:
                file.write(b"half a frame")
            archive = FolderArchive(tmp_path / "state")
            archive.truncate(k + 1)
    archive.close()
    assert (tmp_path / "state" / "frames.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()


@pytest.mark.parametrize("size", [0, 10, 30, 48, 100])
def test_a_writer_killed_in_its_first_frame_leaves_no_frame(tmp_path, size):
    archive = FolderArchive(tmp_path)
    archive.append(FRAMES[0])
    archive.close()
    path = tmp_path / "frames.traj"
    content = bytearray(path.read_bytes()[:size])
    content[32:40] = bytes(max(0, min(8, len(content) - 32)))  # the count is written last
    path.write_bytes(content)
    assert len(archive.frames()) == 0
    archive.truncate(0)
    archive.append(FRAMES[1])
    assert [f.info["step"] for f in archive.frames()] == [1]
    archive.close()


def interrupts_during(action, target):
    """The exceptions of ``action`` on a fresh target, with Ctrl-C in each Python function that it enters."""
    for place in count():
        calls = count()

        def interrupt(frame, event, arg, calls=calls, place=place):
            if event == "call" and next(calls) == place:
                raise KeyboardInterrupt

        with target() as opened:
            sys.setprofile(interrupt)
            try:
                action(opened)
            except BaseException as error:
                sys.setprofile(None)
                yield error
            else:
                sys.setprofile(None)
                return


def test_an_interrupt_is_not_lost_while_a_frame_is_written_or_read(tmp_path):
    path = tmp_path / "frames.traj"
    write_trajectory(path, FRAMES[:2])
    for action, target in (
        (lambda writer: writer.write(FRAMES[0]), lambda: closing(FrameWriter(tmp_path / "other.traj", "w"))),
        (lambda frames: frames[1], lambda: nullcontext(StoredFrames(path))),
    ):
        errors = list(islice(interrupts_during(action, target), 5000))
        assert 50 < len(errors) < 5000
        assert {type(error) for error in errors} == {KeyboardInterrupt}


def test_frames_that_are_missing_are_refused(tmp_path):
    archive = FolderArchive(tmp_path)
    archive.append(FRAMES[0])
    with pytest.raises(ResourceError, match="damaged"):
        archive.truncate(2)


def test_a_folder_knows_whether_anything_was_finished_and_can_be_removed(tmp_path):
    archive = FolderArchive(tmp_path / "state")
    same_run(archive, FRAMES[0], EMT(), MdSettings())
    assert archive.is_new()
    archive.append(FRAMES[0])
    assert not archive.is_new()
    archive.remove()
    assert not (tmp_path / "state").exists()


def changed(**how):
    atoms = FRAMES[0].copy()
    if "number" in how:
        atoms.numbers[0] = 47
    if "position" in how:
        atoms.positions[0, 0] += 1e-12
    if "constraint" in how:
        atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.mark.parametrize(
    "atoms, calculator, settings, what",
    [
        (changed(number=1), EMT(), MdSettings(), "numbers"),
        (changed(position=1), EMT(), MdSettings(), "positions"),
        (changed(constraint=1), EMT(), MdSettings(), "constraints"),
        (changed(), EMT(asap_cutoff=True), MdSettings(), "asap_cutoff"),
        (changed(), EMT(), MdSettings(timestep=2), "--timestep"),
        (changed(), EMT(), MdSettings(steps=9_999), "--steps"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_another_run_is_refused_and_the_difference_named(tmp_path, atoms, calculator, settings, what):
    archive = FolderArchive(tmp_path)
    same_run(archive, changed(), EMT(), MdSettings())
    same_run(archive, changed(), EMT(), MdSettings())
    with pytest.raises(ConfigError, match=what) as caught:
        same_run(archive, atoms, calculator, settings, ("steps",))
    assert caught.value.exit_code == 2
    same_run(archive, changed(), EMT(), MdSettings(steps=20_000), ("steps",))
