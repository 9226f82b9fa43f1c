"""What NFFLr is timed against: other packages' networks with random weights, and classical potentials.

Each package goes into an environment of its own beside NFFLr (``pip install mace-torch``, ``nequip`` or
``matgl``) and is imported when it is asked for. Networks have their package's defaults, and a cutoff of 5 Å.
"""

import numpy as np
import torch
from ase.build import bulk

CUTOFF, NEIGHBOURS = 5.0, 28.0  # Å; of an atom of silicon within it


def silicon(atoms, seed=0):
    """A rattled diamond cell of ``atoms`` (a multiple of 8), as near to a cube as that number allows."""
    cells = atoms // 8
    repeats = [
        (i, j, cells // i // j)
        for i in range(1, cells + 1)
        for j in range(1, cells + 1)
        if cells % (i * j) == 0
    ]
    crystal = bulk("Si", a=5.43, cubic=True).repeat(min(repeats, key=np.ptp))
    crystal.rattle(0.05, seed=seed)
    return crystal


def mace_model(hidden="128x0e"):
    from e3nn import o3
    from mace import modules

    blocks = modules.interaction_classes
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=1,
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(1),
        avg_num_neighbors=NEIGHBOURS,
        atomic_numbers=[14],
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def mace(hidden="128x0e"):
    from mace.calculators import MACECalculator

    return MACECalculator(models=[mace_model(hidden)], device="cpu", default_dtype="float32")


def nequip_model(l_max=1):
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    torch.set_default_dtype(torch.float64)  # which NequIP asks for; the model is float32
    set_global_state()
    return NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        r_max=CUTOFF,
        type_names=["Si"],
        num_layers=4,
        l_max=l_max,
        num_features=32,
        avg_num_neighbors=NEIGHBOURS,
    )


def nequip_transforms():
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform

    return [ChemicalSpeciesToAtomTypeMapper(["Si"]), NeighborListTransform(r_max=CUTOFF)]


def nequip(l_max=1):
    from nequip.integrations.ase import NequIPCalculator

    model = nequip_model(l_max)
    model = model["sole_model"] if hasattr(model, "keys") else model
    return NequIPCalculator(model.eval(), device="cpu", transforms=nequip_transforms())


def matgl_potential(kind="M3GNet"):
    from matgl import models
    from matgl.apps.pes import Potential

    network = getattr(models, kind)(element_types=("Si",), is_intensive=False)
    return Potential(model=network, calc_forces=True, calc_stresses=True)


def matgl(kind="M3GNet"):
    from matgl.ext.ase import PESCalculator

    return PESCalculator(matgl_potential(kind), stress_unit="eV/A3")


def stillinger_weber():
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def emt():
    from ase.calculators.emt import EMT

    return EMT()


CALCULATORS = {
    "mace_128x0e": mace,
    "mace_128x0e+128x1o": lambda: mace("128x0e+128x1o"),
    "nequip_l1": nequip,
    "nequip_l2": lambda: nequip(2),
    "m3gnet": matgl,
    "tensornet": lambda: matgl("TensorNet"),
    "stillinger_weber": stillinger_weber,
    "emt": emt,
}
COPPER = ("emt",)  # no silicon in it
