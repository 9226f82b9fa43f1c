"""What atoms send does not run away where they are far denser than the data."""

import copy

import numpy as np
import pytest
from ase.build import bulk
from forgery import edited

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.data.graph import periodic_radius_graph
from nfflr.models import MomentConfig, MomentNetwork


@pytest.fixture(scope="module")
def networks():
    """The same weights with the limit and without, calibrated on rattled crystals."""
    rng = np.random.default_rng(0)
    crystals = [bulk("Si", cubic=True) for _ in range(10)]
    for atoms in crystals:
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    limited = MomentNetwork(MomentConfig(elements=("Si",), layers=2)).double()
    limited.calibrate(periodic_radius_graph(crystals, r=limited.cutoff))
    free = MomentNetwork(limited.config.model_copy(update={"message_limit": 0.0})).double()
    free.load_state_dict(limited.state_dict())
    return limited, free


def sent(network, scale):
    """Largest number that an atom of a crystal of this lattice constant, relative to normal, sends."""
    sizes = []
    model = copy.deepcopy(network)
    model.senders[0].register_forward_hook(
        lambda _, inputs, output: sizes.append(float(output.detach().abs().max()))
    )
    atoms = bulk("Si", a=5.43 * scale)
    atoms.rattle(0.05, seed=1)
    atoms.calc = NFFLrCalculator(model)
    atoms.get_potential_energy()
    return sizes[0]


def test_messages_of_the_data_stay_and_those_of_denser_crystals_grow_less(networks):
    limited, free = networks
    assert sent(limited, 1.0) == pytest.approx(sent(free, 1.0), rel=0.15)
    growth, unlimited = sent(limited, 0.6) / sent(limited, 1.0), sent(free, 0.6) / sent(free, 1.0)
    assert unlimited > 100 and growth < unlimited**0.6


def test_an_older_checkpoint_has_no_limit(networks, tmp_path):
    """It was trained without one, and a file of that time does not name the setting."""
    path = tmp_path / "model.safetensors"
    limited, free = networks
    save_checkpoint(path, limited)
    settings = {k: v for k, v in free.config.model_dump(mode="json").items() if k != "message_limit"}
    path.write_bytes(edited(path.read_bytes(), hyperparameters=settings))
    model, _ = load_checkpoint(path)
    assert model.config.message_limit == 0 and sent(model, 0.6) == sent(free, 0.6)
