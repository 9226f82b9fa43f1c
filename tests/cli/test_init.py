"""``nff init`` on public data as published, and on the same data with the faults that data have."""

import json
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from builders import copper
from pydantic import ValidationError

from nfflr.cli.main import run
from nfflr.structures.readers import read_structures
from nfflr.train.config import TrainingConfig, load_config
from nfflr.train.config_files import file_model, json_schema
from nfflr.train.first_config import choose, choose_cutoff
from nfflr.units import GPA

DATA = Path(__file__).parent.parent / "data"
SILICON = Path(__file__).parents[2] / "calculators" / "mlearn-si" / "train.xyz.xz"
JARVIS = DATA / "jarvis" / "ff"
SETS = {
    "silicon": (SILICON, []),
    "copper": (DATA / "labelled" / "copper.xyz.xz", []),
    "lithium": (DATA / "labelled" / "lithium.xyz.xz", []),
    "acetylacetone": (DATA / "labelled" / "acetylacetone.xyz.xz", []),
    "ethanol": (DATA / "labelled" / "ethanol.xyz.xz", []),
    "NbTaW": (DATA / "labelled" / "NbTaW.xyz.xz", []),
    "jarvis": (JARVIS, ["--energy-units", "eV"]),
    "jarvis-stress": (JARVIS, ["--energy-units", "eV", "--stress-units", "kbar", "--stress-sign", "-1"]),
}
SMALL = sorted(SETS.keys() - {"silicon"})  # what trains an epoch within seconds


def silicon(count: int = 70) -> list:
    """Crystals, vacancies and strained cells, evenly from the file."""
    frames = read_structures(SILICON)
    return frames[:: len(frames) // count]


def relabel(frames, **factors) -> list:
    """The same structures with labels times a factor, or a function of the atoms."""
    for atoms in frames:
        results = dict(atoms.calc.results)
        for name, factor in factors.items():
            results[name] = results[name] * (factor(atoms) if callable(factor) else factor)
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def written(folder: Path, frames) -> Path:
    ase.io.write(folder / "data.xyz", frames)
    return folder / "data.xyz"


def init(source, folder: Path, *options) -> int:
    return run(["init", str(source), "--out", str(folder / "out"), *options])


def refusal(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error:")
    return lines[0]


@pytest.mark.parametrize("name", SETS)
def test_the_config_of_published_data_loads_with_a_reason_at_every_choice(name, tmp_path, capsys):
    source, options = SETS[name]
    assert init(source, tmp_path, *options) == 0
    text = (tmp_path / "out" / "config.py").read_text()
    settings = load_config(tmp_path / "out" / "config.py")
    assert settings.model.elements == settings.dataset.elements
    assert 5.0 <= settings.model.cutoff <= 5.6
    assert len(settings.dataset.split["val"]) >= 1 and not settings.dataset.split["test"]
    has_stress = any("stress" in r.labels for r in settings.dataset.records)
    assert (settings.weights(1.0)["stress"] > 0) == has_stress
    assert max(map(len, text.splitlines())) <= 110
    report = capsys.readouterr().out
    assert all(element in report for element in settings.model.elements)
    assert next((tmp_path / "out").glob("*-init.png")).stat().st_size > 10_000


@pytest.mark.parametrize("name", SMALL)
def test_the_config_trains_without_editing(name, tmp_path):
    source, options = SETS[name]
    assert init(source, tmp_path, *options) == 0
    assert run(["train", str(tmp_path / "out" / "config.py"), "--epochs", "1"]) == 0
    assert (tmp_path / "out" / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("factor", "given"),
    [
        (-10 / GPA, ["--stress-units", "kbar", "--stress-sign", "-1"]),
        (1 / GPA, ["--stress-units", "GPa", "--stress-sign", "1"]),
        (-1.0, ["--stress-units", "eV/Å^3", "--stress-sign", "-1"]),
    ],
)
def test_stress_in_another_unit_or_sign_is_recognised_and_mended(factor, given, tmp_path, capsys):
    """VASP's kbar, pressure positive; GPa; and the sign alone."""
    source = written(tmp_path, relabel(silicon(), stress=factor))
    assert init(source, tmp_path) == 3
    assert f"give {' '.join(given)}" in refusal(capsys) and not (tmp_path / "out").exists()
    assert init(source, tmp_path, *given) == 0
    mended = load_config(tmp_path / "out" / "config.py").dataset.records
    true = silicon()
    for record, atoms in zip(mended, true, strict=True):
        np.testing.assert_allclose(record.labels["stress"], atoms.get_stress(voigt=False), atol=1e-6)


def test_stresses_off_their_energies_are_told_and_not_trained_on(tmp_path, capsys):
    """As in mlearn's copper, whose stresses are 3 GPa above what its energies say."""
    frames = silicon(214)
    shift = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]) * 2.5 * GPA
    for atoms in frames:
        atoms.calc = SinglePointCalculator(
            atoms, **{**atoms.calc.results, "stress": atoms.get_stress() + shift}
        )
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert "by +2.50 ± 0.00 GPa (27 strained cells)" in capsys.readouterr().out
    assert load_config(tmp_path / "out" / "config.py").weights(1.0)["stress"] == 0


def test_energies_per_atom_are_recognised_and_mended(tmp_path, capsys):
    source = written(tmp_path, relabel(silicon(), energy=lambda atoms: 1 / len(atoms)))
    assert init(source, tmp_path) == 3
    assert "per atom; give --energy-units eV/atom" in refusal(capsys)
    assert init(source, tmp_path, "--energy-units", "eV/atom") == 0
    mended = load_config(tmp_path / "out" / "config.py").dataset.records
    energies = [float(r.labels["total_energy"]) for r in mended]
    np.testing.assert_allclose(energies, [a.get_potential_energy() for a in silicon()], atol=1e-4)


def test_mixed_energies_are_told_and_cannot_be_mended_by_an_option(tmp_path, capsys):
    frames = silicon()
    relabel(frames[::9], energy=lambda atoms: 1 / len(atoms))
    assert init(written(tmp_path, frames), tmp_path) == 3
    assert "units are mixed" in refusal(capsys)


def test_copies_are_told_and_left_out(tmp_path, capsys):
    frames = silicon(30)
    source = written(tmp_path, [*frames, *frames[:3]])
    assert init(source, tmp_path) == 0
    count = len(frames)
    assert "3 structures repeat others" in capsys.readouterr().out
    assert f"left_out = {{{count}, {count + 1}, {count + 2}}}" in (tmp_path / "out" / "config.py").read_text()
    assert len(load_config(tmp_path / "out" / "config.py").dataset) == count


def test_copies_that_contradict_each_other_are_refused(tmp_path, capsys):
    """As in the raw mlearn files: a structure repeated with the stress of another."""
    frames = silicon(30)
    again = frames[3].copy()
    again.calc = SinglePointCalculator(again, **{**frames[3].calc.results, "stress": np.full(6, 0.02)})
    assert init(written(tmp_path, [*frames, again]), tmp_path) == 3
    assert "same structure with different stress" in refusal(capsys)


def test_isolated_atoms_are_told_and_left_out(tmp_path, capsys):
    """They have energies and no forces, which a training set would refuse."""
    frames = read_structures(SETS["acetylacetone"][0])
    atoms = read_structures(DATA / "labelled" / "atoms.xyz.xz")
    assert init(written(tmp_path, [*atoms, *frames]), tmp_path) == 0
    assert "isolated atoms      3" in capsys.readouterr().out
    assert len(load_config(tmp_path / "out" / "config.py").dataset) == len(frames)


def test_a_unit_that_the_format_does_not_fix_is_asked_for(tmp_path, capsys):
    assert init(JARVIS, tmp_path) == 2
    captured = capsys.readouterr()
    assert "give --energy-units eV (then" in captured.err and ", eV/atom (" in captured.err
    assert "likely --stress-units kbar --stress-sign -1" in captured.out


def test_energies_under_another_name_are_found(tmp_path, capsys):
    frames = silicon(30)
    for atoms in frames:
        atoms.info["dft_energy"] = atoms.calc.results.pop("energy")
    source = written(tmp_path, frames)
    assert init(source, tmp_path) == 3
    assert "give --key total_energy=dft_energy" in refusal(capsys)
    assert init(source, tmp_path, "--key", "total_energy=dft_energy") == 0
    assert "total_energy" in load_config(tmp_path / "out" / "config.py").dataset.records[0].labels
    assert init(source, tmp_path, "--key", "energy=dft_energy", "--overwrite") == 2
    assert "did you mean" in refusal(capsys)


def test_missing_labels_are_told_and_masked(tmp_path, capsys):
    frames = silicon(30)
    for atoms in frames[::5]:
        del atoms.calc.results["forces"]
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert f"{len(frames[::5])} structures have no forces" in capsys.readouterr().out
    load_config(tmp_path / "out" / "config.py")


def test_energies_alone_train_energies(tmp_path):
    frames = silicon(30)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    assert init(written(tmp_path, frames), tmp_path) == 0
    settings = load_config(tmp_path / "out" / "config.py")
    assert settings.dataset.target == "total_energy" and settings.weights(1.0)["forces"] == 0


def test_nothing_is_replaced_unasked_and_config_and_data_move_together(tmp_path):
    source = written(tmp_path, silicon(30))
    assert init(source, tmp_path) == 0 and init(source, tmp_path) == 2
    assert init(source, tmp_path, "--overwrite") == 0
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert len(load_config(moved / "out" / "config.py").dataset) == len(silicon(30))


def test_what_cannot_be_read_says_so(tmp_path, capsys):
    assert init(tmp_path / "absent.xyz", tmp_path) == 2
    assert "no such file" in refusal(capsys)
    frames = silicon(30)
    frames[4].calc.results["energy"] = np.inf
    assert init(written(tmp_path, frames), tmp_path) == 3
    message = refusal(capsys)
    assert frames[4].info["config_id"] in message and "total_energy is not finite" in message


def test_a_stress_that_makes_no_sense_can_be_left_out(tmp_path, capsys):
    """Codes write zeros for molecules, which have no volume."""
    frames = read_structures(SETS["ethanol"][0])
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, **{**atoms.calc.results, "stress": np.zeros(6)})
    source = written(tmp_path, frames)
    assert init(source, tmp_path) == 3
    assert "--key stress=none" in refusal(capsys)
    assert init(source, tmp_path, "--key", "stress=none") == 0
    assert load_config(tmp_path / "out" / "config.py").weights(1.0)["stress"] == 0


def test_coincident_atoms_are_refused_by_name(tmp_path, capsys):
    frames = silicon(30)
    frames[6].positions[3] = frames[6].positions[8]
    assert init(written(tmp_path, frames), tmp_path) == 3
    assert f"{frames[6].info['config_id']}]: two atoms coincide" in refusal(capsys)


def test_kilocalories_are_noticed_by_the_size_of_forces(tmp_path, capsys):
    source = written(tmp_path, relabel(read_structures(SETS["ethanol"][0]), energy=23.06, forces=23.06))
    assert init(source, tmp_path) == 0
    assert "give --energy-units kcal/mol" in capsys.readouterr().out
    assert init(source, tmp_path, "--energy-units", "kcal/mol", "--overwrite") == 0
    assert "kcal" not in capsys.readouterr().out


def advice_of(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_two_calculations_in_one_file_have_to_be_chosen_between(tmp_path, capsys):
    """``energy`` and ``forces`` of another potential beside those of the reference."""
    frames = silicon(30)
    for k, atoms in enumerate(frames):
        results = atoms.calc.results
        atoms.info["REF_energy"] = results["energy"] + 0.3 * np.sin(7 * k) * len(atoms)
        atoms.arrays["REF_forces"] = results["forces"] * 1.4 + 0.1
    source = written(tmp_path, frames)
    assert init(source, tmp_path) == 3
    message = refusal(capsys)
    reference = "--key total_energy=REF_energy --key forces=REF_forces"
    own = "--key total_energy=energy --key forces=forces"
    assert "energy and REF_energy differ by 0.2" in message and reference in message and own in message
    assert init(source, tmp_path, *own.split()) == 0
    dataset = load_config(tmp_path / "out" / "config.py").dataset
    assert float(dataset.records[0].labels["total_energy"]) == pytest.approx(frames[0].calc.results["energy"])


@pytest.mark.parametrize(
    "name", ["REF_energy", "formation_energy", "mace_energy", "free_energy", "kinetic_energy"]
)
def test_energies_that_agree_or_mean_something_else_are_no_contradiction(name, tmp_path, capsys):
    frames = silicon(30)
    for atoms in frames:
        shift = 158.0 if name == "REF_energy" else 0.1 * np.random.default_rng(len(atoms)).normal()
        atoms.info[name] = atoms.calc.results["energy"] + shift * len(atoms)  # another zero per atom
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert "differ by" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["charge", "total_charge", "spin", "multiplicity", "magmom"])
def test_mixed_states_are_told_with_how_far_their_energies_are_apart(name, tmp_path, capsys):
    frames = silicon(30)
    for k, atoms in enumerate(frames):
        atoms.info[name] = 2 * (k % 3)
        atoms.calc.results["energy"] += 5.0 * (k % 3)
    assert init(written(tmp_path, frames), tmp_path) == 0
    text = advice_of(capsys)
    assert "the data mix states" in text and " 0, 2, 4" in text and "nothing suspicious" not in text


def test_one_state_or_moments_that_fluctuate_are_no_mixture(tmp_path, capsys):
    frames = silicon(30)
    for k, atoms in enumerate(frames):
        atoms.info["charge"] = 1
        atoms.info["total_magmom"] = 20.0 + 0.5 * (k % 5)
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert "mix" not in capsys.readouterr().out


def test_an_element_that_occurs_alone_is_not_claimed(tmp_path, capsys):
    frames = silicon(30)
    for symbol, energy in (("O", -432.0), ("Si", -0.8)):
        atoms = ase.Atoms(symbol, [(0, 0, 0)])
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
        frames.append(atoms)
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert "O occurs only in isolated atoms" in capsys.readouterr().out
    settings = load_config(tmp_path / "out" / "config.py")
    assert settings.model.elements == ("Si",) == settings.dataset.elements


def test_five_structures_and_no_forces_are_told(tmp_path, capsys):
    frames = silicon(30)[:5]
    for atoms in frames:
        del atoms.calc.results["forces"]
    assert init(written(tmp_path, frames), tmp_path) == 0
    text = advice_of(capsys)
    assert "5 structures are few" in text and "no structure has forces" in text


def test_forces_of_other_atoms_are_told_by_their_sum(tmp_path, capsys):
    frames = silicon(60)
    for atoms in frames[::3]:
        forces = atoms.calc.results["forces"]
        forces[: len(atoms) // 2] = np.abs(forces[: len(atoms) // 2]) + 0.2
    assert init(written(tmp_path, frames), tmp_path) == 0
    assert "add up to a net force" in advice_of(capsys)


@pytest.mark.parametrize("name", ["acac", "ethanol", "mlearn-si"])
def test_good_data_are_not_suspected(name, tmp_path, capsys):
    assert init(SILICON.parents[1] / name / "train.xyz.xz", tmp_path) == 0
    assert "nothing suspicious" in capsys.readouterr().out


def test_the_shear_stresses_of_lithium_are_told_and_not_trained_on(tmp_path, capsys):
    """They have the wrong sign in the published data: C44 of −13 GPa by stress, 9.8 by energy."""
    assert init(SILICON.parents[1] / "mlearn-li" / "train.xyz.xz", tmp_path) == 0
    text = advice_of(capsys)
    assert "shear stresses disagree with energies along strains" in text and "group Elastic" in text
    assert load_config(tmp_path / "out" / "config.py").weights(1.0)["stress"] == 0


def test_cells_shorter_than_twice_the_cutoff_are_told(tmp_path, capsys):
    assert init(written(tmp_path, copper(24, ((2, 2, 2),), strain=0.02)), tmp_path) == 0
    text = advice_of(capsys)
    assert "24 of 24 cells are shorter than twice the cutoff of 5.0 Å (the median is 7.2 Å)" in text
    large = copper(12, ((3, 3, 3),), strain=0.01)  # 10.8 Å: half of it is still more than 5 Å
    assert init(written(tmp_path, large), tmp_path, "--overwrite") == 0
    assert load_config(tmp_path / "out" / "config.py").model.cutoff == 5.0
    assert "are shorter than" not in capsys.readouterr().out


@pytest.mark.parametrize("spacing, height, cutoff", [(4.6, np.inf, 8.0), (4.6, 11.0, 5.5), (2.9, 20.0, 5.4)])
def test_the_cutoff_follows_from_spacing_and_cells(spacing, height, cutoff):
    survey = SimpleNamespace(spacing={"Li": 2.0, "K": spacing}, heights=np.array([height, height]))
    assert choose_cutoff(survey) == cutoff


@pytest.mark.parametrize("form", ["config.py", "config.yaml"])
def test_the_number_of_layers_is_explained_and_may_be_given(tmp_path, form):
    source, options = written(tmp_path, copper(12)), ["--yaml"] if form.endswith("yaml") else []
    assert init(source, tmp_path, *options) == 0
    assert load_config(tmp_path / "out" / form).model.config.layers == 2
    assert "neighbours exchange tensors" in (tmp_path / "out" / form).read_text()
    assert init(source, tmp_path, *options, "--layers", "1", "--overwrite") == 0
    assert load_config(tmp_path / "out" / form).model.config.layers == 1


def test_energies_stand_with_a_tenth_of_a_millielectronvolt(tmp_path, capsys):
    frames = silicon(30)
    assert init(written(tmp_path, frames), tmp_path) == 0
    lowest = min(a.get_potential_energy() / len(a) for a in frames)
    assert f" {lowest:.4f} " in capsys.readouterr().out


@pytest.mark.parametrize("how", ["files", "pattern", "folder"])
def test_several_inputs_are_one_data_set_and_move_with_the_config(how, tmp_path, capsys):
    frames, parts = silicon(30), []
    for k, part in enumerate((frames[:12], frames[12:])):
        folder = tmp_path / "runs" / ("" if how == "folder" else f"run[{k}]")
        folder.mkdir(parents=True, exist_ok=True)
        parts.append(folder / (f"part{k}.xyz" if how == "folder" else "frames.xyz"))
        ase.io.write(parts[-1], part)
    arguments = {
        "files": parts,
        "pattern": [tmp_path / "runs" / "*" / "frames.xyz"],
        "folder": [tmp_path / "runs"],
    }
    out = tmp_path / "out"
    assert run(["init", *map(str, arguments[how]), "--out", str(out)]) == 0
    assert next(out.glob("*-and-1-more-init.png")).is_file()
    moved = tmp_path.rename(tmp_path.with_name(f"moved-{how}"))
    dataset = load_config(moved / "out" / "config.py").dataset
    assert len(dataset) == len(frames) and len({record.id for record in dataset.records}) == len(frames)
    for record, atoms in zip(dataset.records, frames, strict=True):
        assert float(record.labels["total_energy"]) == pytest.approx(atoms.get_potential_energy())
    assert [name.rpartition("/")[2][:4] for name in dataset.origin["source"]] in (["fram"] * 2, ["part"] * 2)


def test_copies_in_several_inputs_are_left_out(tmp_path):
    frames = silicon(30)
    for name, part in (("a.xyz", frames), ("b.xyz", frames[:3])):
        ase.io.write(tmp_path / name, part)
    arguments = ["init", str(tmp_path / "a.xyz"), str(tmp_path / "b.xyz"), "--out", str(tmp_path / "out")]
    assert run(arguments) == 0
    assert len(load_config(tmp_path / "out" / "config.py").dataset) == len(frames)


def test_a_folder_without_data_says_where_there_are_some(tmp_path, capsys):
    (tmp_path / "runs" / "1").mkdir(parents=True)
    assert init(tmp_path / "runs", tmp_path) == 2
    assert "no labelled data in this folder" in refusal(capsys)
    (tmp_path / "runs" / "1" / "OUTCAR").write_text("")
    assert init(tmp_path / "runs", tmp_path) == 2
    assert "/runs/*/OUTCAR'" in refusal(capsys)
    assert init(tmp_path / "runs" / "*.xyz", tmp_path) == 2
    assert "no file matches" in refusal(capsys)


@pytest.mark.parametrize("name", ["silicon", "jarvis-stress", "NbTaW"])
def test_yaml_and_python_configs_are_the_same_training(name, tmp_path):
    source, options = SETS[name]
    assert init(source, tmp_path, *options) == 0
    assert init(source, tmp_path, *options, "--yaml", "--overwrite") == 0
    declared, programmed = (load_config(tmp_path / "out" / f"config.{form}") for form in ("yaml", "py"))
    assert declared.plain() == programmed.plain() and declared.notes == programmed.notes
    assert declared.described_model() == programmed.described_model()
    assert declared.dataset.digest() == programmed.dataset.digest()
    assert declared.output_dir.resolve() == programmed.output_dir.resolve()


def test_a_yaml_config_leaves_out_what_the_python_one_does_and_obeys_its_schema(tmp_path):
    frames = silicon(30)
    source = written(tmp_path, [*frames, frames[2]])
    assert init(source, tmp_path, "--yaml") == 0
    text = (tmp_path / "out" / "config.yaml").read_text()
    assert len(load_config(tmp_path / "out" / "config.yaml").dataset) == len(frames)
    assert text.startswith("# yaml-language-server: $schema=./config.schema.json")
    schema = json.loads((tmp_path / "out" / "config.schema.json").read_text())
    assert schema == json_schema(TrainingConfig)
    allowed = file_model(TrainingConfig)
    allowed.model_validate(yaml.safe_load(text))
    with pytest.raises(ValidationError, match="epoch"):
        allowed.model_validate({**yaml.safe_load(text), "epoch": 3})


def test_molecules_get_more_steps_in_smaller_batches():
    """Both with 900 structures of nine atoms to train on."""
    same = {"spacing": {"C": 1.4}, "sizes": np.full(1000, 9), "labels": {"forces": 1000}}
    choices = [choose(Survey(heights=np.full(1000, height), **same)) for height in (30.0, np.inf)]
    assert [c.batch_size for c in choices] == [16, 8]
    steps = [c.epochs * c.n_train / c.batch_size for c in choices]
    assert steps[0] == pytest.approx(8000, rel=0.05) and steps[1] == pytest.approx(80_000, rel=0.05)


class Survey(SimpleNamespace):
    """What ``choose`` asks of a survey."""

    def __len__(self):
        return len(self.sizes)
