"""Recipe of the bundled ``mlearn-si`` potential."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent

random_seed = 0
output_dir = Path("runs/mlearn-si")

dataset = AtomsDataset(
    here / "train.xyz.xz",
    "energy_and_forces",
    n_train=0.9,
    n_val=0.1,
    test_source=here / "test.xyz.xz",
)
model = MomentNetwork(MomentConfig(elements=("Si",), cutoff=5.0))

epochs = 20
batch_size = 8
stress_weight = 10.0
