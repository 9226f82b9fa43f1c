"""A model in one file outside the package predicts moments and charges: trained, kept, shown, judged."""

import json
from pathlib import Path

import ase.io
import magnet
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from nfflr import AtomsDataset, NFFLrCalculator, TrainingConfig, load_model, predict
from nfflr.cli.main import run
from nfflr.data.dataset import collate
from nfflr.errors import CheckpointError, ConfigError, StructureError
from nfflr.models.registry import REGISTRY
from nfflr.quantities import FORCE_FIELD, QUANTITIES, Quantity
from nfflr.train.trainer import train
from nfflr.workflows import energy

TARGET = ["energy_and_forces", "charges", "magmoms"]
ELECTRONEGATIVITY = {"Cu": 1.9, "Ni": 1.91, "Au": 2.54}  # Pauling


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Only here does the package know the architecture."""
    monkeypatch.setitem(REGISTRY, "test-magnet", magnet.Magnet)


def labelled(count: int, seed: int = 0, columns=("charges", "magmoms")) -> list:
    """Gold-copper crystals with EMT's energies and with charges and moments that neighbours make.

    Charges move along bonds towards the more electronegative atom, and fall off with distance, so that they
    add up to zero. Copper gets a moment that shrinks as gold neighbours come near, as a crowded shell does.
    """
    generator, frames = np.random.default_rng(seed), []
    for k in range(count):
        atoms = bulk("Cu", a=3.7 + 0.3 * generator.random(), cubic=True) * (1, 1, 1 + k % 2)
        gold = generator.random(len(atoms)) < 0.5
        atoms.numbers[gold] = 79
        atoms.rattle(0.1, seed=seed + k)
        near = neighbour_sums(atoms)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy() - 3.0 * len(atoms), "forces": atoms.get_forces()}
        results |= {"stress": atoms.get_stress(), **{name: near[name] for name in columns}}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def neighbour_sums(atoms) -> dict[str, np.ndarray]:
    from ase.neighborlist import neighbor_list

    i, j, r = neighbor_list("ijd", atoms, 3.6)
    chi = np.array([ELECTRONEGATIVITY[s] for s in atoms.symbols])
    fade = (1 - (r / 3.6) ** 2) ** 2
    charges = np.bincount(i, 0.5 * fade * (chi[i] - chi[j]), len(atoms))
    crowd = np.bincount(i, fade * (atoms.numbers[j] == 79), len(atoms))
    return {"charges": -charges, "magmoms": np.where(atoms.numbers == 29, 1.5 * np.exp(-crowd), 0.0)}


def model_of(**settings) -> magnet.Magnet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return magnet.Magnet(magnet.MagnetConfig(elements=("Cu", "Au"), cutoff=3.8, **settings))


def configured(dataset, out: Path, **settings) -> TrainingConfig:
    defaults = {"epochs": 60, "batch_size": 4, "validate_every": 20, "warmup_steps": 5, "progress": False}
    defaults |= {"learning_rate": 1e-2, "dataset": dataset, "model": model_of(), "output_dir": out}
    return TrainingConfig(**{**defaults, **settings})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run on extended XYZ, and the test file."""
    folder = tmp_path_factory.mktemp("magnet")
    ase.io.write(folder / "train.xyz", labelled(40))
    ase.io.write(folder / "test.xyz", labelled(10, seed=500))
    header = (folder / "train.xyz").read_text().splitlines()[1]
    assert ":magmoms:R:1" in header and ":charge:R:1" in header  # columns of the atoms
    dataset = AtomsDataset(folder / "train.xyz", TARGET, n_train=0.85, n_val=0.15)
    settings = {"target_weights": {"magmoms": (0.5, 2.0)}, "target_scales": {"charges": 0.02}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "test-magnet", magnet.Magnet)
        train(configured(dataset, folder / "run", **settings))
    return folder


def test_the_model_is_one_short_file_outside_the_package():
    path = Path(magnet.__file__)
    assert len(path.read_text().splitlines()) <= 80
    assert not path.is_relative_to(Path(load_model.__code__.co_filename).parent)


def test_moments_and_charges_are_learned_beside_energies_and_forces(trained):
    model, metadata = load_model(trained / "run")
    assert [output["name"] for output in metadata["outputs"]] == ["magmoms", "charges"]
    assert metadata["outputs"][0]["unit"] == "μ_B" and metadata["outputs"][0]["per_atom"] is True
    assert {"val/magmoms_mae", "val/charges_rmse", "val/forces_mae"} <= metadata["scores"].keys()
    test = AtomsDataset(trained / "test.xyz", TARGET, n_train=1.0, n_val=0.0)
    predictions = predict(model, test, range(len(test)))
    for name in ("magmoms", "charges"):
        pair = predictions[name]
        assert pair.predicted.shape == pair.reference.shape == (sum(len(r.atoms) for r in test.records),)
        off = np.sqrt(np.mean((pair.predicted - pair.reference) ** 2))
        assert off < 0.35 * pair.reference.std(), name  # a mean would have all of it


def test_ase_gets_what_the_labels_are(trained):
    model, _ = load_model(trained / "run")
    (atoms,) = labelled(1, seed=900)
    expected = model(atoms)
    atoms.calc = NFFLrCalculator.load(trained / "run")
    assert {"magmoms", "charges", "magmom"} <= set(atoms.calc.implemented_properties)
    np.testing.assert_allclose(atoms.get_magnetic_moments(), expected["magmoms"], atol=1e-6)
    np.testing.assert_allclose(atoms.get_charges(), expected["charges"], atol=1e-6)
    assert atoms.get_magnetic_moment() == pytest.approx(atoms.get_magnetic_moments().sum())
    assert atoms.get_forces().shape == (len(atoms), 3) and atoms.get_stress().shape == (6,)
    several = atoms.calc.evaluate([atoms, atoms * (2, 1, 1)])
    np.testing.assert_allclose(several[1]["magmoms"][: len(atoms)], several[0]["magmoms"], atol=1e-5)


def test_the_command_line_shows_and_writes_them(trained, tmp_path, capsys):
    (atoms,) = labelled(1, seed=900)
    ase.io.write(tmp_path / "one.cif", atoms)
    assert (
        run(["energy", str(tmp_path / "one.cif"), "--model", str(trained / "run"), "--out", str(tmp_path)])
        == 0
    )
    shown = capsys.readouterr().out
    assert "magmoms" in shown
    result = json.loads((tmp_path / "one-energy.json").read_text())["result"]
    assert len(result["quantities"]["magmoms"]) == len(result["quantities"]["charges"]) == len(atoms)
    assert result["quantity_units"]["charges"] == "e"
    assert "charges" in shown and " e" in shown.partition("charges")[2].splitlines()[0]
    assert run(["info", "--model", str(trained / "run")]) == 0
    assert "magmoms, charges" in capsys.readouterr().out


def test_evaluate_tabulates_them(trained, tmp_path, capsys):
    arguments = [
        "evaluate",
        str(trained / "test.xyz"),
        "--model",
        str(trained / "run"),
        "--out",
        str(tmp_path),
    ]
    assert run(arguments) == 0
    table = capsys.readouterr().out
    assert "m MAE" in table and "q RMSE" in table and "F MAE" in table
    record = json.loads((tmp_path / "test-evaluate.json").read_text())
    assert record["units"]["magmoms"] == "μ_B" and record["errors"]["all"]["magmoms_mae"] > 0
    ase.io.write(tmp_path / "bare.xyz", labelled(3, seed=7, columns=()))  # without the columns
    arguments[1] = str(tmp_path / "bare.xyz")
    assert run(arguments) == 0
    assert json.loads((tmp_path / "bare-evaluate.json").read_text())["errors"]["all"]["magmoms_mae"] is None


def test_the_page_of_the_run_has_their_plots(trained, tmp_path):
    assert run(["report", str(trained / "run"), "--out", str(tmp_path)]) == 0
    page = next(tmp_path.glob("*.html")).read_text()
    assert "reference magmoms" in page and "q MAE" in page


def test_energies_and_moments_without_forces(tmp_path):
    frames = labelled(16)
    for atoms in frames:
        del atoms.calc.results["forces"], atoms.calc.results["stress"]
    dataset = AtomsDataset(frames, ["total_energy", "magmoms"], n_train=12, n_val=4)
    assert dataset.targets == ("total_energy", "magmoms")
    with pytest.raises(ConfigError, match=r"model: predicts .*charges"):  # nothing would teach the charges
        train(configured(dataset, tmp_path / "run", epochs=1))
    dataset = AtomsDataset(frames, ["total_energy", "magmoms", "charges"], n_train=12, n_val=4)
    rows = []
    train(configured(dataset, tmp_path / "run", epochs=10, validate_every=5), on_validation=rows.append)
    assert rows[-1]["val/magmoms_mae"] < rows[0]["val/magmoms_mae"] and "val/forces_mae" not in rows[0]


def test_missing_columns_are_refused_or_masked(tmp_path):
    frames = labelled(12)
    for atoms in frames[:3]:
        del atoms.calc.results["magmoms"]
    ase.io.write(tmp_path / "holes.xyz", frames)
    with pytest.raises(StructureError, match=r"holes\.xyz\[0\]: no magmoms label.*allow_missing=True"):
        AtomsDataset(tmp_path / "holes.xyz", TARGET)
    dataset = AtomsDataset(tmp_path / "holes.xyz", TARGET, n_train=8, n_val=4, allow_missing=True)
    _, labels = collate([dataset[k] for k in range(12)])
    sizes = [len(atoms) for atoms in frames]
    assert torch.isnan(labels["magmoms"]).tolist() == [k < sum(sizes[:3]) for k in range(sum(sizes))]
    assert torch.isfinite(labels["charges"]).all()
    rows = []
    train(configured(dataset, tmp_path / "run", epochs=2, validate_every=1), on_validation=rows.append)
    assert all(np.isfinite(row["train/loss"]) for row in rows)


def test_a_nan_is_refused_or_masks_one_atom():
    frames = labelled(4)
    frames[2].calc.results["magmoms"][1] = np.nan
    with pytest.raises(StructureError, match=r"structures\[2\]: magmoms is not finite"):
        AtomsDataset(frames, TARGET, n_train=3, n_val=1)
    dataset = AtomsDataset(frames, TARGET, n_train=3, n_val=1, allow_missing=True)
    assert torch.isnan(dataset[2][1]["magmoms"]).sum() == 1
    frames[2].calc.results["magmoms"][1] = np.inf
    with pytest.raises(StructureError, match=r"structures\[2\]: magmoms is not finite"):
        AtomsDataset(frames, TARGET, n_train=3, n_val=1, allow_missing=True)


@pytest.mark.parametrize("shape", [(1,), (3,), (4, 3), (5,)], ids=str)
def test_a_wrong_shape_names_structure_expected_and_actual_shape(shape):
    frames = labelled(3)
    frames[0].calc.results["magmoms"] = np.ones(shape)  # of four atoms
    text = rf"structures\[0\]: magmoms has shape \({shape[0]},.*\), expected shape \(4,\)"
    with pytest.raises(StructureError, match=text):
        AtomsDataset(frames, TARGET, n_train=2, n_val=1)


def test_any_column_of_any_shape_is_a_label(tmp_path):
    frames = labelled(6)
    rotations = np.random.default_rng(0)
    for atoms in frames:
        atoms.arrays["local_axes"] = rotations.normal(size=(len(atoms), 9))
        atoms.arrays["born"] = rotations.normal(size=(len(atoms), 9))
        atoms.info["moment"] = rotations.normal(size=3)
    ase.io.write(tmp_path / "many.xyz", frames)
    tensor = Quantity("born", per_atom=True, shape=(3, 3), unit="e")
    dataset = AtomsDataset(tmp_path / "many.xyz", ["total_energy", "local_axes", tensor, "moment"])
    assert dataset.quantities[1:] == (
        Quantity("local_axes", per_atom=True, shape=(9,)), tensor, Quantity("moment", shape=(3,))
    )  # fmt: skip
    _, labels = collate([dataset[k] for k in (1, 2)])
    assert labels["local_axes"].shape == (12, 9) and labels["born"].shape == (12, 3, 3)
    assert labels["moment"].shape == (2, 3)
    expected = np.concatenate([frames[k].arrays["born"] for k in (1, 2)]).reshape(12, 3, 3)
    np.testing.assert_allclose(labels["born"], expected, atol=1e-7)
    again = AtomsDataset(tmp_path / "many.xyz", dataset.origin["target"])  # as the record of a run has it
    assert again.quantities == dataset.quantities and again.digest() == dataset.digest()


def test_rows_for_every_atom_are_told_from_vectors_by_differing_sizes():
    frames = labelled(4)
    for atoms in frames:
        atoms.info["spin"] = np.arange(float(len(atoms)))
    assert AtomsDataset(frames, "spin").quantities == (Quantity("spin", per_atom=True),)
    same = [atoms for atoms in frames if len(atoms) == 4]
    dataset = AtomsDataset(same, "spin")
    assert dataset.quantities == (Quantity("spin", shape=(4,)),)  # not to be told apart; the model tells
    declared = Quantity("spin", per_atom=True, unit="ħ")
    assert dataset.declared([declared]).quantities == (declared,)
    with pytest.raises(ConfigError, match=r"spin comes out as \(4, 3\), the data ask for \(4,\)"):
        dataset.declared([Quantity("spin", per_atom=True, shape=(3,))])


def test_a_checkpoint_whose_outputs_are_not_the_architectures_is_refused(trained, monkeypatch):
    monkeypatch.setattr(magnet.Magnet, "outputs", QUANTITIES["total_energy"], raising=True)
    monkeypatch.setattr(magnet.Magnet, "outputs", (QUANTITIES["total_energy"], QUANTITIES["dipole"]))
    with pytest.raises(CheckpointError, match="outputs: got .*magmoms.*the architecture returns"):
        load_model(trained / "run")


def test_compiled_forms_leave_nothing_out(trained, caplog):
    dataset = AtomsDataset(trained / "train.xyz", TARGET, n_train=30, n_val=10)
    with pytest.raises(ValueError, match="compile is for energies, forces and stress alone"):
        configured(dataset, trained / "compiled", compile=True)
    (atoms,) = labelled(1, seed=900)
    results = []
    for compile in (True, False):
        atoms.calc = NFFLrCalculator.load(trained / "run", compile=compile)
        assert (atoms.calc.compiled is not None) == compile, caplog.text
        atoms.get_potential_energy()
        results.append(atoms.calc.results)
    assert results[0].keys() == results[1].keys() >= {"charges", "magmoms", "forces", "stress"}
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_a_dipole_is_the_sum_of_the_atoms_shares():
    """One quantity of the structure, which is a vector: q r of charges about their centre."""

    class Polar(magnet.Magnet):
        outputs = (*magnet.Magnet.outputs.fget(model_of()), QUANTITIES["dipole"])

        def atomic(self, inputs):
            result, vectors = super().atomic(inputs), inputs.vectors
            pull = vectors * (-vectors.square().sum(1, keepdim=True)).exp()
            shares = torch.zeros(inputs.n_atoms, 3, dtype=vectors.dtype).index_add(0, inputs.dst, pull)
            return result | {"dipole": shares * result["charges"][:, None]}

    torch.manual_seed(0)
    calculator = NFFLrCalculator(Polar(magnet.MagnetConfig(elements=("Cu", "Au"), cutoff=3.8)).double())
    first, second = labelled(2)
    several = calculator.evaluate([first, second])
    for atoms, results in zip((first, second), several, strict=True):
        atoms.calc = calculator
        np.testing.assert_allclose(atoms.get_dipole_moment(), results["dipole"], atol=1e-10)
        turned = atoms.copy()
        turned.rotate(90, "z", rotate_cell=True)
        turned.calc = calculator
        x, y, z = atoms.get_dipole_moment()
        np.testing.assert_allclose(turned.get_dipole_moment(), [-y, x, z], atol=1e-9)


def test_a_quantity_of_a_models_own_is_shown_with_its_unit(monkeypatch):
    hardness = Quantity("hardness", per_atom=True, unit="eV")
    monkeypatch.setattr(magnet.Magnet, "outputs", (*FORCE_FIELD, hardness))

    def atomic(self, inputs):
        numbers = inputs.numbers.double()
        return {"energies": inputs.vectors.square().sum() + numbers, "hardness": numbers}

    monkeypatch.setattr(magnet.Magnet, "atomic", atomic)
    model = magnet.Magnet(magnet.Magnet.Config(elements=("Cu",))).eval()
    result = energy(bulk("Cu", cubic=True), NFFLrCalculator(model))
    assert result.quantity_units["hardness"] == "eV" and "hardness 29 to 29 eV" in result.message


def test_units_of_another_meaning_on_a_calculator_do_not_matter():
    class Metal(EMT):
        units = "metal"  # as calculators of LAMMPS have them

    assert energy(bulk("Cu"), Metal()).converged
