"""Recipe of the bundled ``ethanol`` potential: ethanol, from the revised MD17 set."""

from pathlib import Path

from nfflr.data.dataset import AtomsDataset
from nfflr.models import MomentConfig, MomentNetwork

here, output_dir = Path(__file__).parent, Path("runs/ethanol")
random_seed = 0
dataset = AtomsDataset(here / "train.xyz.xz", n_train=0.9, n_val=0.1, test_source=here / "test.xyz.xz")
model = MomentNetwork(MomentConfig(elements=("H", "C", "O"), cutoff=5.0, layers=2))
epochs, batch_size, compile, validate_every = 710, 8, True, 17
stress_weight = 0.0  # molecules have none
notes = {
    "data": "ethanol, PBE/def2-SVP, as in rMD17 (MIT)",
    "citation": "D. P. Kovács et al., arXiv:2205.06643; "
    "A. S. Christensen and O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
}
