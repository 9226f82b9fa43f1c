"""``nff evaluate``: several inputs, names of results, six stress components, and data that are known."""

import json

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from builders import copper

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.reports.run_data import familiar
from nfflr.structures.readers import read_structures
from nfflr.units import GPA


@pytest.fixture(scope="module")
def frames():
    """Labelled by the potential itself, so that its errors are zero where all is read rightly."""
    calculator, labelled = NFFLrCalculator.load("mlearn-cu"), []
    for frame in copper(4, ((1, 1, 1),), strain=0.02):
        atoms = frame.copy()
        atoms.calc = calculator
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        labelled.append(atoms)
    return labelled


def evaluate(out, *arguments) -> int:
    return run(["evaluate", "--model", "mlearn-cu", *map(str, arguments), "--out", str(out)])


def test_results_of_inputs_with_dots_have_names_of_their_own(frames, tmp_path):
    for name in ("run1.0.xyz", "run1.1.xyz", ".hidden.xyz", "plain.xyz.gz"):
        ase.io.write(tmp_path / name, frames)
        assert evaluate(tmp_path / "out", tmp_path / name) == 0
    names = {path.name for path in (tmp_path / "out").glob("*.json")} | {
        path.name for path in (tmp_path / "out").glob(".*.json")
    }
    assert names == {f"{stem}-evaluate.json" for stem in ("run1.0", "run1.1", ".hidden", "plain")}


def test_six_components_in_another_order_are_read_by_the_option(frames, tmp_path, capsys):
    moved = []
    for frame in frames:
        atoms, results = frame.copy(), dict(frame.calc.results)
        atoms.info["REF_stress"] = -10 / GPA * results.pop("stress")[[0, 1, 2, 5, 3, 4]]
        atoms.calc = SinglePointCalculator(atoms, **results)
        moved.append(atoms)
    ase.io.write(tmp_path / "vasp.xyz", moved)
    options = ["--key", "stress=REF_stress", "--stress-units", "kbar", "--stress-sign", "-1"]
    assert evaluate(tmp_path, tmp_path / "vasp.xyz", *options) == 2
    assert "stress_order" in capsys.readouterr().err
    assert evaluate(tmp_path, tmp_path / "vasp.xyz", *options, "--stress-order", "vasp") == 0
    record = json.loads((tmp_path / "vasp-evaluate.json").read_text())
    assert record["errors"]["all"]["stress_mae"] < 1e-7
    assert evaluate(tmp_path, tmp_path / "vasp.xyz", *options, "--stress-order", "voigt", "--overwrite") == 0
    assert json.loads((tmp_path / "vasp-evaluate.json").read_text())["errors"]["all"]["stress_mae"] > 1e-5


def test_virials_are_compared_as_stresses(frames, tmp_path):
    moved = []
    for frame in frames:
        atoms, results = frame.copy(), dict(frame.calc.results)
        del results["stress"]
        atoms.info["my_virial"] = -frame.get_volume() * frame.get_stress(voigt=False)
        atoms.calc = SinglePointCalculator(atoms, **results)
        moved.append(atoms)
    ase.io.write(tmp_path / "gap.xyz", moved)
    options = ["--key", "stress=my_virial", "--stress-units", "eV", "--stress-sign", "-1"]
    assert evaluate(tmp_path, tmp_path / "gap.xyz", *options) == 0
    assert json.loads((tmp_path / "gap-evaluate.json").read_text())["errors"]["all"]["stress_mae"] < 1e-7


def test_several_inputs_are_one_comparison(frames, tmp_path):
    for folder, part in (("a", frames[:1]), ("b", frames[1:])):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "same.xyz", part)
    assert evaluate(tmp_path, tmp_path / "?" / "same.xyz") == 0
    record = json.loads((tmp_path / "same-and-1-more-evaluate.json").read_text())
    assert record["errors"]["all"]["structures"] == len(frames)
    assert [name[-10:] for name in record["data"]["file"]] == ["a/same.xyz", "b/same.xyz"]


def test_structures_of_the_training_are_counted(tmp_path, capsys):
    """Of a bundled potential those of the file beside it; copies count wherever their file lies."""
    bundled = NFFLrCalculator.load("mlearn-cu")  # it is there
    assert bundled.model.elements == ("Cu",)
    from nfflr.checkpoint import find_checkpoint

    train = read_structures(find_checkpoint("mlearn-cu").parent / "train.xyz.xz")[:3]
    ase.io.write(tmp_path / "mixed.xyz", [*train, *copper(2, ((1, 1, 1),))])
    assert evaluate(tmp_path, tmp_path / "mixed.xyz") == 0
    assert "of the 5 structures 3 were trained on" in capsys.readouterr().err
    assert json.loads((tmp_path / "mixed-evaluate.json").read_text())["data"]["in_training"] == {"train": 3}
    ase.io.write(tmp_path / "new.xyz", copper(2, ((1, 1, 1),)))
    assert evaluate(tmp_path, tmp_path / "new.xyz") == 0
    assert "trained on" not in capsys.readouterr().err


CONFIG = """
from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent
dataset = AtomsDataset([here / "a.xyz", here / "b.xyz"], n_train=4, n_val=2)
model = MomentNetwork(MomentConfig(elements=("Cu",), cutoff=4.0, channels=4, hidden=4))
output_dir = here / "run"
epochs, batch_size, progress = 1, 2, False
"""


def test_a_run_knows_the_structures_of_its_splits(tmp_path, capsys):
    frames = copper(8, ((1, 1, 1),))
    ase.io.write(tmp_path / "a.xyz", frames[:5])
    ase.io.write(tmp_path / "b.xyz", frames[5:])
    (tmp_path / "config.py").write_text(CONFIG)
    assert run(["train", str(tmp_path / "config.py")]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert len(record["origin"]["source"]) == len(record["sha256"]["source"]) == 2
    ase.io.write(tmp_path / "moved.xyz", frames[::-1])
    for name in ("a.xyz", "b.xyz"):
        (tmp_path / name).unlink()
    assert (
        run(
            [
                "evaluate",
                "--model",
                str(tmp_path / "run"),
                str(tmp_path / "moved.xyz"),
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    message = "of the 8 structures 4 were trained on and 2 were used to choose the weights"
    assert message in capsys.readouterr().err
    assert run(["report", str(tmp_path / "run")]) == 0  # which reads the record too


def test_a_note_says_nothing_about_a_model_whose_data_are_not_known(frames, tmp_path):
    ase.io.write(tmp_path / "data.xyz", frames)
    from nfflr.data.dataset import AtomsDataset

    dataset = AtomsDataset(tmp_path / "data.xyz", n_train=1.0, n_val=0.0)
    assert not familiar("mlearn-si-alignn", dataset, [str(tmp_path / "data.xyz")])
    assert np.isfinite(dataset.records[0].labels["total_energy"])


def test_the_errors_of_a_sum_are_those_of_the_sum(frames, tmp_path, capsys):
    parameters = "elements: [Cu]\nepsilon: {Cu: 0.01}\nsigma: {Cu: 2.0}\ncutoff: 4.0\n"
    (tmp_path / "pair.yaml").write_text(parameters)
    total = f"mlearn-cu + lennard-jones:{tmp_path / 'pair.yaml'}"
    ase.io.write(tmp_path / "data.xyz", frames)
    assert run(["evaluate", "--model", total, str(tmp_path / "data.xyz"), "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "data-evaluate.json").read_text())
    pair = NFFLrCalculator.load(f"lennard-jones:{tmp_path / 'pair.yaml'}")
    errors = [abs(pair.get_potential_energy(atoms)) / len(atoms) for atoms in frames]
    assert record["errors"]["all"]["energy_mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert len(record["checkpoint"]["digest"]) == 2
    total = "mlearn-cu + ase:ase.calculators.emt:EMT"
    assert run(["evaluate", "--model", total, str(tmp_path / "data.xyz"), "--out", str(tmp_path / "o")]) == 2
    assert "no batches" in capsys.readouterr().err
