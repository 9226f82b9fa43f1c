"""From a few structures and a slow calculator, the teacher, to a fast potential for that material."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..units import Unit
from ..workflows.framework.interface import Repeats, Settings


class DistillSettings(Settings):
    """The number of calls, the structures, and the errors that are good enough."""

    budget: int = Field(200, ge=20, description="calls of the teacher, with those of references and tests")
    temperature: Annotated[float, Unit("K")] = Field(
        1000.0, gt=0, description="highest temperature the potential is made for"
    )
    supercell: Repeats | None = Field(
        None, description="repeats for MD and rattled atoms; default: from --supercell-length"
    )
    supercell_length: Annotated[float, Unit("Å")] = Field(
        8.0, gt=0, description="without --supercell: least distance between images"
    )
    force_limit: Annotated[float, Unit("%")] = Field(
        5.0, gt=0, description="force error that is good enough, of the teacher's rms force"
    )
    phonon_limit: Annotated[float, Unit("THz")] = Field(
        0.3, gt=0, description="mean difference of phonon frequencies that is good enough"
    )
    relax: bool = Field(True, description="relax the structures with the teacher first")
    md_reference: int = Field(
        30, ge=0, description="steps of the teacher's MD for a radial distribution, a call each; 0: none"
    )
    members: int = Field(2, ge=2, description="potentials in the committee whose disagreement chooses")
    committee_length: float = Field(
        0.25, gt=0, le=1, description="length of their training over the final one's"
    )
    length: float = Field(1.0, gt=0, description="length of the final training over the default recipe's")
    layers: int = Field(1, ge=1, le=4, description="layers of the potentials; two cost about ten times one")
    walk_steps: int = Field(300, ge=20, description="steps of each MD in which the committee explores")
    compile: bool = Field(True, description="compile training and MD, where there is a C++ compiler")
    displacement: Annotated[float, Unit("Å")] = Field(
        0.03,
        gt=0,
        description="displacement for the phonons compared; on a finer scale learned teachers are rough",
    )
    seed: int = Field(0, ge=0, description="seed of everything random")

    @property
    def seeds(self) -> int:
        """Calls for the first structures."""
        return self.budget // 4

    @property
    def batch(self) -> int:
        """Calls for the structures of a round."""
        return max(4, self.budget // 8)

    @property
    def tests(self) -> int:
        """Calls for the frames of one test."""
        return max(3, self.budget // 25)

    @property
    def references(self) -> int:
        """Most calls for relaxations and references."""
        return self.budget // 2
