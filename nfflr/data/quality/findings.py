"""What is told about labelled data."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import NFFLrError, StructureError


@dataclass(frozen=True)
class Finding:
    """Something to tell: ``advice`` is the argument or act that mends it; ``fatal`` forbids training."""

    reason: str
    advice: str = ""
    fatal: bool = False
    kind: type[NFFLrError] = StructureError

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason
