"""Recipe of the bundled ``acac`` potential: acetylacetone at 300 K (Kovács et al. 2022)."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

here, output_dir = Path(__file__).parent, Path("runs/acac")
random_seed = 0
dataset = AtomsDataset(here / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=here / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("H", "C", "O"), cutoff=5.0, layers=2))
epochs, batch_size, compile, validate_every = 1420, 8, True, 35
stress_weight = 0.0  # molecules have none
notes = {
    "data": "acetylacetone, PBE-D3/def2-SVP (MIT)",
    "citation": "D. P. Kovács et al., arXiv:2205.06643",
}
