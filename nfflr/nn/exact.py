"""Buffers that stay in float64 whatever the weights become: −300 eV per atom needs more than float32."""

from __future__ import annotations

from torch import nn


class ExactBuffers(nn.Module):
    """A module whose buffers named in ``exact`` follow it to another device, but keep their dtype."""

    exact: tuple[str, ...] = ()

    def _apply(self, fn, recurse=True):
        kept = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
