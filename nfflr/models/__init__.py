"""Models: potentials and models of properties. Names load on first use, each without the other architectures.

A model of your own subclasses ``Potential`` and is registered under a key; see ``CONTRIBUTING.md``.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .base import Potential, PotentialConfig
    from .classical.core_repulsion import CoreRepulsion, CoreRepulsionConfig
    from .classical.eam import EAM, EAMConfig
    from .classical.lennard_jones import LennardJones, LennardJonesConfig
    from .classical.stillinger_weber import StillingerWeber, StillingerWeberConfig
    from .classical.tersoff import Tersoff, TersoffConfig
    from .committee import Committee
    from .gnn.alignn_ff import ALIGNN, ALIGNNConfig
    from .gnn.painn import PaiNN, PaiNNConfig
    from .gnn.schnet import SchNet, SchNetConfig
    from .moment import MomentConfig, MomentNetwork
    from .property import PropertyConfig, PropertyHead, PropertyModel
    from .registry import architectures, register

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
