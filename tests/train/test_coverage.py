"""A trained potential accepts only elements whose bonds its data show, and carries its compositions."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset
from nfflr.errors import StructureError
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.train import trainer
from nfflr.train.config import TrainingConfig


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(trainer, "write_figure", lambda path, figure: None)


def labelled(atoms, seed):
    """A structure with rattled positions and labels that only have to have the right shapes."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.positions += 0.05 * rng.normal(size=(len(atoms), 3))
    forces = rng.normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0 * len(atoms), forces=forces - forces.mean(0))
    return atoms


def silicon(count=6):
    return [labelled(bulk("Si", cubic=True), seed) for seed in range(count)]


def oxygen(separation=None):
    """One atom, or two that are too far apart to see each other, or near."""
    positions = [[0, 0, 0]] if separation is None else [[0, 0, 0], [0, 0, separation]]
    atoms = ase.Atoms(f"O{len(positions)}", positions)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.6 * len(atoms), forces=np.zeros((len(atoms), 3)))
    return atoms


def configured(out, structures, elements):
    dataset = AtomsDataset(structures, n_train=len(structures) - 1, n_val=1)
    dataset.split = {"train": list(range(len(structures) - 1)), "val": [len(structures) - 1], "test": []}
    model = MomentNetwork(MomentConfig(elements=elements, cutoff=4.0))
    return TrainingConfig(dataset=dataset, model=model, output_dir=out, epochs=1, progress=False)


@pytest.mark.parametrize("separation", [None, 6.0])
def test_an_element_of_isolated_atoms_alone_is_not_taken(tmp_path, separation):
    config = configured(tmp_path, [oxygen(separation), *silicon()], ("O", "Si"))
    with pytest.raises(StructureError, match="element O has a neighbour within the cutoff in no training"):
        trainer.train(config)
    assert not (tmp_path / "model.safetensors").exists()


def test_an_element_that_the_data_lack_is_refused_by_the_trained_potential(tmp_path, caplog):
    trainer.train(configured(tmp_path, silicon(), ("Si", "Ge")))
    assert "element Ge is in no structure of the data set" in caplog.text
    calculator = NFFLrCalculator.load(tmp_path)
    calculator.get_potential_energy(bulk("Si"))
    for structure in (bulk("Ge"), bulk("SiGe", "zincblende", a=5.5)):
        with pytest.raises(StructureError, match="element Ge was in no structure"):
            structure.calc = calculator
        with pytest.raises(StructureError, match="element Ge was in no structure"):
            calculator.get_potential_energy(structure)
        with pytest.raises(StructureError, match="element Ge was in no structure"):
            calculator.evaluate([structure])


def test_an_element_with_neighbours_in_the_validation_split_alone_is_not_taken(tmp_path):
    config = configured(tmp_path, [oxygen(), *silicon(), oxygen(1.2)], ("O", "Si"))
    with pytest.raises(StructureError, match="element O"):
        trainer.train(config)


def test_one_molecule_with_that_element_is_enough(tmp_path):
    trainer.train(configured(tmp_path, [oxygen(), oxygen(1.2), *silicon()], ("O", "Si")))
    domain = load_checkpoint(tmp_path)[1]["trained_on"]
    assert domain == {"compositions": ["O", "Si"], "molecule": False, "untaught": []}


def test_the_command_says_it_in_a_line(tmp_path, capsys):
    write(tmp_path / "data.xyz", [oxygen(), *silicon()])
    (tmp_path / "config.py").write_text(
        "from pathlib import Path\n"
        "from nfflr.data.dataset import AtomsDataset\n"
        "from nfflr.models.moment import MomentConfig, MomentNetwork\n"
        "here = Path(__file__).parent\n"
        "dataset = AtomsDataset(here / 'data.xyz', n_train=6, n_val=1)\n"
        "model = MomentNetwork(MomentConfig(elements=('O', 'Si'), cutoff=4.0))\n"
        "epochs = 1\n"
    )
    assert run(["train", str(tmp_path / "config.py"), "--out", str(tmp_path / "run")]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "element O" in line and "leave it out of elements" in line


def test_a_potential_trained_on_one_molecule_knows_it(tmp_path, caplog):
    atoms = [ase.Atoms("H", [[0, 0, 0]]), ase.Atoms("O", [[0, 0, 0]])]
    for atom in atoms:
        atom.calc = SinglePointCalculator(atom, energy=-1.0, forces=np.zeros((1, 3)))
    water = [labelled(molecule("H2O"), seed) for seed in range(5)]
    trainer.train(configured(tmp_path, [*atoms, *water], ("H", "O")))
    domain = load_checkpoint(tmp_path)[1]["trained_on"]
    assert domain == {"compositions": ["H2O"], "molecule": True, "untaught": []}
    NFFLrCalculator.load(tmp_path).get_potential_energy(molecule("H2O2"))
    assert "trained on H2O alone" in caplog.text
