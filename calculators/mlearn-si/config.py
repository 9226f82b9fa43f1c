"""Recipe of the bundled ``mlearn-si`` potential: silicon, from the mlearn set (Zuo et al. 2020)."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent
output_dir = Path("runs/mlearn-si")
random_seed = 2  # of 0, 1, 2 the one with the lowest validation loss

dataset = AtomsDataset(
    here / "train.xyz.xz",
    "energy_and_forces",
    n_train=0.9,
    n_val=0.1,
    test_source=here / "test.xyz.xz",
)
model = MomentNetwork(
    MomentConfig(
        elements=("Si",),
        cutoff=5.5,
        envelope=8,
        channels=16,
        hidden=32,
        radial_decay=1.0,
        order_decay=0.5,
    )
)

epochs = 110
batch_size = 4
learning_rate = 1e-2
weight_decay = 1e-4
ema_decay = 0.998

# Forces count squared (their scale lies above all errors), energies and stresses by Huber: a few hot cells
# would dominate them otherwise. Stress is weighted for the elastic constants, C12 above all.
force_scale, force_weight = 1.0, 40.0  # eV/Å
energy_scale, energy_weight = 0.01, (0.02, 0.1)  # eV/atom; a smooth ramp: forces first
stress_scale, stress_weight = 0.0025, 0.25  # eV/Å^3
notes = {
    "data": "mlearn Si (BSD-3-Clause)",
    "citation": "Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi 10.1021/acs.jpca.9b08723",
}
