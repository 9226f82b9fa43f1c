"""``nff relax --batch``: results like those of one by one, resumed after a kill."""

import csv
import json

import pytest
from ase.build import bulk

from nfflr.cli.main import run
from nfflr.errors import StoppedError

torchsim = pytest.importorskip("nfflr.engines.torchsim", exc_type=ImportError)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    for k, name in enumerate("abc"):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.02 * (k + 1), seed=k)
        atoms.write(inside / f"{name}.xyz")
    bulk("Cu").write(inside / "d.xyz")
    return inside


def command(folder, out, *more):
    return [
        "relax",
        str(folder),
        "-m",
        "mlearn-si-fast",
        "-o",
        str(folder.parent / out),
        "--fmax",
        "0.02",
        *more,
    ]


def rows(path):
    with open(path / "relax-summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_those_of_one_by_one(capsys, folder):
    assert run(command(folder, "together", "--batch")) == 3
    assert "Cu" in capsys.readouterr().err
    assert run(command(folder, "alone")) == 3
    ours, theirs = rows(folder.parent / "together"), rows(folder.parent / "alone")
    assert [r["structure"] for r in ours] == [r["structure"] for r in theirs]
    assert [r["exit code"] for r in ours] == ["0", "0", "0", "3"] == [r["exit code"] for r in theirs]
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        assert float(one["energy (eV)"]) == pytest.approx(float(other["energy (eV)"]), abs=1e-3)
    files = {path.name for path in (folder.parent / "together").iterdir()}
    assert files == {path.name for path in (folder.parent / "alone").iterdir()}
    record = json.loads((folder.parent / "together" / "a-relax.json").read_text())
    assert record["calculator"]["source"] == "mlearn-si-fast" and record["settings"]["fmax"] == 0.02


def test_a_killed_batch_is_continued(folder, monkeypatch):
    together = torchsim.relax_together

    def killed(*args):
        found = iter(together(*args))
        yield next(found)
        raise StoppedError("terminated", 15)

    monkeypatch.setattr(torchsim, "relax_together", killed)
    assert run(command(folder, "out", "--batch")) == 143
    monkeypatch.undo()
    out = folder.parent / "out"
    (first,) = out.glob("*-relax.json")
    before = first.stat().st_mtime_ns
    for leftover in "abc":  # half of a result
        if not first.name.startswith(leftover):
            (out / f"{leftover}-relaxed.xyz").write_text("half")
    assert run(command(folder, "out", "--batch", "--resume")) == 3
    assert first.stat().st_mtime_ns == before
    assert [r["converged"] for r in rows(out)] == ["true", "true", "true", "false"]


@pytest.mark.parametrize(
    "option", [["--optimizer", "bfgs"], ["--jobs", "2"], ["-m", "mlearn-cu"], ["--compile"], ["--symmetry"]]
)
def test_what_does_not_go_together_is_refused(capsys, folder, option):
    assert run(command(folder, "out", "--batch", *option)) == 2
    assert capsys.readouterr().err.startswith("error: --")
    assert not (folder.parent / "out").exists()
