"""Parts of models: radial bases, cutoffs, losses. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .cutoff import cosine_cutoff, polynomial_cutoff, smoothstep
    from .radial import bessel, gaussian, spherical_bessel
    from .zbl import zbl_energy

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
