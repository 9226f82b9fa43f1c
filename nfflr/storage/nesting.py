"""How deep JSON is nested, found without following it: its parser does, and may take the process with it."""

from __future__ import annotations

import re

import numpy as np

LIMIT = 200  # ours have five levels
BLOCK = 2**20  # bytes
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def refuse_deep(content: bytes) -> None:
    """See that brackets outside of strings are nested ``LIMIT`` deep at most.

    ``json`` counts its own depth against the interpreter's limit for recursion, which extension modules
    were seen to upset: a hundred thousand brackets then overflow the stack.

    Raises:
        ValueError: they are nested deeper.
    """
    plain = STRING.sub(b"", content)
    depth = 0
    for start in range(0, len(plain), BLOCK):
        part = np.frombuffer(plain[start : start + BLOCK], np.uint8) | 0x20  # [ and {, ] and } become equal
        levels = depth + np.cumsum((part == ord("{")).astype(int) - (part == ord("}")))
        if levels.max(initial=0) > LIMIT:
            raise ValueError(f"nested more than {LIMIT} deep")
        depth = int(levels[-1])
