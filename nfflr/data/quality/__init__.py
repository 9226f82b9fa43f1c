"""The quality of labelled data: what is in them, whether labels agree with each other, and in which units."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import NFFLrError, StructureError


@dataclass(frozen=True)
class Finding:
    """A remark on labelled data; ``advice`` says what mends it, ``fatal`` forbids training."""

    reason: str
    advice: str = ""
    fatal: bool = False
    kind: type[NFFLrError] = StructureError

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason
