"""Recipe of the bundled ``mlearn-li`` potential: lithium, from the mlearn set (Zuo et al. 2020)."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

here, output_dir = Path(__file__).parent, Path("runs/mlearn-li")
random_seed = 0
dataset = AtomsDataset(here / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=here / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("Li",), cutoff=6.1))
stress_weight = 0.0  # shear stresses of the two-atom cells are wrong in the data
epochs, batch_size, compile = 150, 4, True
notes = {
    "data": "mlearn Li (BSD-3-Clause)",
    "citation": "Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi 10.1021/acs.jpca.9b08723",
}
