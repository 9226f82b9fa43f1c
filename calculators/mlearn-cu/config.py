"""Recipe of the bundled ``mlearn-cu`` potential: copper, from the mlearn set (Zuo et al. 2020)."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

here, output_dir = Path(__file__).parent, Path("runs/mlearn-cu")
random_seed = 0
dataset = AtomsDataset(here / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=here / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("Cu",), cutoff=5.6))
epochs, batch_size, compile = 70, 2, True
stress_weight = 0.0  # the labels' stresses are 2.8 GPa off their own energies
notes = {
    "data": "mlearn Cu (BSD-3-Clause)",
    "citation": "Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi 10.1021/acs.jpca.9b08723",
}
