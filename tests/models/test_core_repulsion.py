"""Nuclear repulsion against the universal potential in its textbook numbers."""

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from scipy import constants

from nfflr.errors import ConfigError
from nfflr.models import CoreRepulsion, MomentConfig, MomentNetwork
from nfflr.models.classical.core_repulsion import COULOMB, SHARES, zbl_energy


def textbook(r, z1, z2):
    """Ziegler, Biersack, Littmark as in the Stopping-power article of Wikipedia and in SRIM's book.

    Coefficients rounded to four digits there; a_u = 0.8854 a_0 / (Z1^0.23 + Z2^0.23); SI throughout.
    """
    bohr = constants.physical_constants["Bohr radius"][0]
    x = r * 1e-10 / (0.8854 * bohr / (z1**0.23 + z2**0.23))
    weights, rates = (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)
    screening = sum(c * np.exp(-d * x) for c, d in zip(weights, rates, strict=True))
    joule = z1 * z2 * constants.e**2 / (4 * np.pi * constants.epsilon_0 * r * 1e-10) * screening
    return joule / constants.e


def numbers(*z):
    return tuple(torch.tensor(x) for x in z)


@pytest.mark.parametrize("pair", [(1, 1), (6, 14), (14, 14), (13, 79), (92, 1)], ids=str)
def test_energy_is_the_textbook_potential(pair):
    r = np.linspace(0.02, 1.5, 60)
    energy = zbl_energy(torch.tensor(r), *numbers(*pair)).numpy()
    # 3e-3: the four-digit coefficients differ by 1e-4 from the printed five-digit ones, times x ≤ 25.
    assert np.allclose(energy, textbook(r, *pair), rtol=3e-3)


def test_constants_are_those_of_nature_and_the_screening_starts_at_one():
    assert pytest.approx(ase.units._e / (4 * np.pi * ase.units._eps0) * 1e10, rel=1e-7) == COULOMB
    assert sum(SHARES) == pytest.approx(1, abs=1e-10)


def test_bare_nuclei_are_left_at_short_distance():
    energy = zbl_energy(torch.tensor(1e-7, dtype=torch.float64), *numbers(14, 6))
    assert energy.item() * 1e-7 == pytest.approx(14 * 6 * COULOMB, rel=1e-5)


def test_pairs_are_symmetric_and_broadcast():
    r = torch.linspace(0.2, 2, 7, dtype=torch.float64)
    ab, ba = zbl_energy(r, *numbers(6, 79)), zbl_energy(r, *numbers(79, 6))
    assert torch.allclose(ab, ba, rtol=1e-14, atol=0)
    z = torch.tensor([1, 6, 14])
    table = zbl_energy(r[:, None], z, torch.tensor(8))
    assert table.shape == (7, 3)
    assert torch.allclose(table[:, 1], zbl_energy(r, *numbers(6, 8)), rtol=1e-14, atol=0)


def test_repulsion_is_positive_and_falls_everywhere():
    energy = zbl_energy(torch.linspace(0.01, 10, 1000, dtype=torch.float64), *numbers(14, 14))
    assert (energy > 0).all() and (energy.diff() < 0).all()


def test_dtype_is_that_of_the_distance():
    assert zbl_energy(torch.tensor(1.0), *numbers(14, 14)).dtype == torch.float32


def test_a_term_adds_the_repulsion_that_a_network_may_hold(structures):
    """A network with its own repulsion equals the network without it plus the term."""
    atoms = structures.cluster(("C", "Si"), rattle=0.1, seed=3)
    atoms.positions[1] = atoms.positions[0] + [0.7, 0, 0]
    torch.manual_seed(0)
    network = MomentNetwork(MomentConfig(elements=("C", "Si"), cutoff=5.0)).double().eval()
    term = CoreRepulsion(CoreRepulsion.Config(elements=("C", "Si"), cutoff=5.0))
    alone = MomentNetwork(network.config.model_copy(update={"zbl": False})).double().eval()
    alone.load_state_dict(network.state_dict())
    for edge in (network.zbl_inner, network.zbl_outer):
        edge.mul_(1e-3)  # the network does not fade out at these distances
    total, expected = (alone + term)(atoms), network(atoms)
    for name in ("total_energy", "forces"):
        assert torch.allclose(total[name], expected[name], rtol=1e-10, atol=1e-10)
    assert term(atoms)["total_energy"] > 10  # eV: the near pair counts


def test_a_term_reaches_as_far_as_it_is_asked_to():
    term = CoreRepulsion(CoreRepulsion.Config(elements=("Si",), cutoff=2.0))
    for r, nothing in ((1.999, False), (2.001, True)):
        energy = term(Atoms("Si2", [[0, 0, 0], [r, 0, 0]]))["total_energy"].item()
        assert (energy == 0) == nothing


def test_a_misspelt_parameter_of_a_file_names_the_nearest(tmp_path):
    path = tmp_path / "zbl.yaml"
    path.write_text("elements: [Si]\ncutof: 4.0\n")
    with pytest.raises(ConfigError, match="zbl has no such parameter; did you mean 'cutoff'"):
        CoreRepulsion.from_file(path)
