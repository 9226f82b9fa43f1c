"""Recipe of the bundled ``nbtaw`` potential: Nb, Ta, W and their binary alloys (Li et al. 2020)."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

here, output_dir = Path(__file__).parent, Path("runs/nbtaw")
random_seed = 0
dataset = AtomsDataset(here / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=here / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("Nb", "Ta", "W"), cutoff=5.0))
epochs, batch_size, compile = 50, 16, True
notes = {
    "data": "NbMoTaW set of maml, Nb, Ta and W (BSD-3-Clause)",
    "citation": "X.-G. Li et al., npj Comput. Mater. 6, 70 (2020), doi 10.1038/s41524-020-0339-0",
}
