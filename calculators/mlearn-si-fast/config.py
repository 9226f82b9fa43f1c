"""Recipe of the bundled ``mlearn-si-fast`` potential: as ``mlearn-si``, with one layer."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

data, output_dir = Path(__file__).parent.parent / "mlearn-si", Path("runs/si-fast")
random_seed = 0
dataset = AtomsDataset(data / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=data / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("Si",), cutoff=5.0))
epochs, batch_size, compile = 160, 4, True
notes = {
    "data": "mlearn Si (BSD-3-Clause)",
    "citation": "Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi 10.1021/acs.jpca.9b08723",
}
