"""Parts of models: radial bases, cutoffs, moments, dense layers. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .radial import (
        bessel,
        cosine_cutoff,
        gaussian,
        polynomial_cutoff,
        smoothstep,
        spherical_bessel,
    )

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
