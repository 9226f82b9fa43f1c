"""Many structures: a workflow on each, in several processes or on a cluster, continued after an interrupt."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # for editors and type checkers; at run time names load on first use
    from .many import run_many
    from .plan import Listener, Outcome

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
