"""Every bundled calculator has a card, and the card tells the truth about its checkpoint."""

import sys
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write

from nfflr.adapters import installed_universal, packages
from nfflr.adapters.packages import adapter, names
from nfflr.cards import bundled_calculators, read_card
from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset
from nfflr.errors import CheckpointError, StructureError
from nfflr.jobs import opening
from nfflr.jobs.opening import choose_calculator
from nfflr.reports.evaluation import predict
from nfflr.validation.reading import read_suite

NAMES = sorted(bundled_calculators())
# Test errors that each must keep: energy MAE (meV/atom), force MAE (meV/Å). GAP and MTP have 0.41–0.49 and 10
# for Cu and Li, 2.2–2.9 and 60–70 for Si (Zuo et al. 2020); the ALIGNN-FF of JARVIS has 19 and 69.4.
BARS = {
    "mlearn-cu": (0.46, 12),
    "mlearn-li": (0.5, 10),
    "mlearn-si": (1.5, 50),
    "mlearn-si-fast": (2.3, 62),
    "mlearn-si-alignn": (19 / 3, 69.4),
}


@pytest.mark.parametrize("name", NAMES)
def test_card_agrees_with_the_checkpoint(name):
    folder = bundled_calculators()[name]
    card = read_card(folder)
    model, metadata = load_checkpoint(folder / FILE)
    assert card.name == name
    assert sorted(card.elements) == sorted(model.elements)
    assert card.cutoff == model.cutoff
    assert card.sha256 == metadata["sha256"]
    assert (folder / "config.py").is_file() and (folder / "DATA-LICENSE").is_file()
    assert (folder / FILE).stat().st_size < 2e6


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_the_card_are_measured_again(name):
    folder = bundled_calculators()[name]
    card = read_card(folder)
    model, _ = load_checkpoint(folder / FILE)
    data = Path(card.test.command.split()[2]).relative_to("calculators")  # nff evaluate DATA --model NAME
    dataset = AtomsDataset(folder.parent / data, n_train=1.0, n_val=0.0)
    assert len(dataset) == card.test.structures
    errors = predict(model, dataset, range(len(dataset))).errors()
    for kind in ("mae", "rmse"):
        assert errors[f"energy_{kind}"] * 1e3 == pytest.approx(getattr(card.test, f"energy_{kind}"), abs=0.01)
        assert errors[f"forces_{kind}"] * 1e3 == pytest.approx(getattr(card.test, f"force_{kind}"), abs=0.1)


@pytest.mark.parametrize("name", BARS)
def test_test_errors_stay_below_what_was_published(name):
    energy, force = BARS[name]
    card = read_card(bundled_calculators()[name])
    assert card.test.energy_mae <= energy
    assert card.test.force_mae <= force


@pytest.mark.parametrize("name", [name for name in NAMES if (bundled_calculators()[name] / "suite").is_dir()])
def test_the_suite_of_a_card_is_the_one_beside_it(name):
    folder = bundled_calculators()[name]
    card = read_card(folder)
    suite = read_suite(folder / "suite")
    scores = {f"{task.name}/{score}" for task in suite.tasks for score in task.scores}
    assert set(card.suite.results) == scores
    limits = {f"{task.name}/{name}": limit for task in suite.tasks for name, limit in task.limits.items()}
    for score, limit in limits.items():
        assert card.suite.results[score] <= limit, score


def test_recipes_are_short_and_share_their_settings():
    """A new element is a config of a few lines: no hyper-parameter but elements and cutoff is set."""
    for name in NAMES:
        if name == "mlearn-si-alignn":
            continue
        text = (bundled_calculators()[name] / "config.py").read_text()
        assert "learning_rate" not in text and "channels" not in text and "force_weight" not in text
        body = text.split("notes = ")[0].split('"""')[2]
        assert len([line for line in body.splitlines() if line and "import" not in line]) <= 10


def test_models_lists_them_by_elements(capsys):
    assert run(["models"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in NAMES)
    assert run(["models", "Ta", "W"]) == 0
    told = capsys.readouterr().out
    assert "nbtaw" in told and "mlearn" not in told
    assert run(["models", "U"]) == 0
    assert "no bundled potential covers U" in capsys.readouterr().out
    assert run(["models", "Xx"]) == 2
    assert "Xx" in capsys.readouterr().err


def test_a_wrong_card_is_told_in_a_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_card(tmp_path)
    (tmp_path / "card.yaml").write_text("name: x\n")
    with pytest.raises(CheckpointError, match="card.yaml: description: "):
        read_card(tmp_path)


def test_a_potential_of_one_molecule_is_chosen_for_that_alone(monkeypatch):
    monkeypatch.setattr(opening, "installed_universal", list)
    assert choose_calculator(molecule("CH3CH2OH")) == "ethanol"
    for name in ("H2O", "CH3OH"):  # of elements that it covers
        with pytest.raises(StructureError, match="no bundled calculator covers"):
            choose_calculator(molecule(name))


@pytest.fixture
def universal(monkeypatch, tmp_path):
    """A stand-in for an installed package with a universal potential; nothing else is universal."""
    (tmp_path / "standin.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "from nfflr.adapters.foreign_calculator import Peer\n"
        "PACKAGE = EXTRA = MODELS = None\n"
        "MODULE, DTYPES, UNIVERSAL = 'ase', ('float64',), True\n"
        "def load(argument, device, dtype):\n"
        "    return Peer(LennardJones(), 'float64')\n"
    )
    (tmp_path / "absent.py").write_text(
        "PACKAGE = MODULE = 'no_such_package'\nUNIVERSAL, MODELS, DTYPES = True, None, ()\n"
    )
    (tmp_path / "files.py").write_text("PACKAGE, MODULE, MODELS = 'ase', 'ase', 'https://example.org'\n")
    monkeypatch.setattr(packages, "__path__", [str(tmp_path)])
    yield "standin"
    for name in ("standin", "absent", "files"):
        sys.modules.pop(f"{packages.__name__}.{name}", None)
        vars(packages).pop(name, None)


def test_an_installed_universal_potential_is_used_where_no_bundled_one_covers(universal, tmp_path, capsys):
    write(tmp_path / "nacl.xyz", bulk("NaCl", "rocksalt", a=5.64))
    assert run(["energy", str(tmp_path / "nacl.xyz"), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "model standin" in out
    assert err.count("note: ClNa: no bundled potential covers it; standin") == 1
    assert choose_calculator(bulk("Si")) == "mlearn-si"  # one of ours goes first
    assert "note" not in capsys.readouterr().err
    assert run(["models", "Na"]) == 0
    assert "standin is installed" in capsys.readouterr().out


def test_only_installed_packages_with_weights_of_their_own_are_universal(universal):
    assert installed_universal() == [universal]


def test_the_adapters_say_which_are_universal():
    marked = {name for name in names() if getattr(adapter(name), "UNIVERSAL", False)}
    assert marked == {"chgnet", "sevennet"}
    for name in marked:  # the bare prefix opens a file of the package, which needs no trust
        kind = adapter(name)
        assert kind.MODELS is None or "" in kind.HELD
