"""Products of tensors, and messages along bonds, with the two derivatives that training takes, by a kernel.

A step differentiates once by bonds, for forces, and then a second time by weights, for the loss. The first
time keeps a graph, the second does not: so each computes only what it needs. See ``tensor_operators.cpp``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..nn.tensors import N_INVARIANTS, N_PRODUCTS, N_TENSORS
from .artefacts import load_library
from .moment_kernel import REAL, padded

SOURCE = Path(__file__).with_name("tensor_operators.cpp")


class _Bonds(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_atoms", "n_edges")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("src", "dst", "vectors", "phi", "dphi")]


@cache
def library(dtype: torch.dtype, n_radial: int, channels: int) -> ctypes.CDLL | None:
    """The kernels for these sizes, built if need be; None if they cannot be."""
    return load_library(SOURCE, {"REAL": REAL[dtype], "RADIAL": n_radial, "CHANNELS": padded(channels)})


def _fill(x: torch.Tensor) -> torch.Tensor:
    """Channels, the last axis, filled up with zeros."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    return nn.functional.pad(x, (0, missing)) if missing else x


def _pointers(*tensors: torch.Tensor | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]


class Messages:
    """As ``nfflr.models.moment.Exchange``: what atoms receive along the bonds of one batch.

    Attributes:
        vectors: (E, 3) Å; energies of what was received can be differentiated by them, once.

    Args:
        library: of the kernels for these sizes.
        vectors: (E, 3) Å, from ``dst`` to ``src``.
        phi, dphi: radial functions (E, B), B filled up to a multiple of eight, and their derivatives.
        src, dst: (E,), ``dst`` ascending.
        n_atoms: N.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        vectors: torch.Tensor,
        phi: torch.Tensor,
        dphi: torch.Tensor,
        src: torch.Tensor,
        dst: torch.Tensor,
        n_atoms: int,
    ):
        self._library = library
        self.vectors = vectors.detach().requires_grad_()
        self._kept = (src, dst, vectors, phi, dphi)  # as long as the kernel may read them
        self._bonds = _Bonds(n_atoms, src.shape[0], *_pointers(*self._kept))

    def __call__(self, sent: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        channels = sent.shape[2]
        return _Messages.apply(_fill(sent), _fill(weights), self.vectors, self)[..., :channels]

    def call(self, name: str, *tensors: torch.Tensor | None) -> None:
        getattr(self._library, name)(ctypes.byref(self._bonds), *_pointers(*tensors))


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sent, weights, vectors, messages):
        sent, weights = sent.contiguous(), weights.contiguous()
        ctx.save_for_backward(sent, weights)
        ctx.messages = messages
        received = sent.new_zeros(sent.shape[0], N_TENSORS, sent.shape[2])
        messages.call("nfflr_messages", sent, weights, received)
        return received

    @staticmethod
    def backward(ctx, slopes):
        sent, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # for forces
            by_sent, by_vectors = _MessagesBack.apply(slopes, sent, weights, ctx.messages)
            return by_sent, None, by_vectors, None
        by_sent, by_weights = torch.zeros_like(sent), torch.zeros_like(weights)
        ctx.messages.call(
            "nfflr_messages_back", sent, weights, slopes.contiguous(), by_sent, None, by_weights
        )
        return by_sent, by_weights, None, None


class _MessagesBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slopes, sent, weights, messages):
        slopes = slopes.contiguous()
        ctx.save_for_backward(slopes, sent, weights)
        ctx.messages = messages
        by_sent, by_vectors = torch.zeros_like(sent), torch.zeros_like(messages.vectors)
        messages.call("nfflr_messages_back", sent, weights, slopes, by_sent, by_vectors, None)
        return by_sent, by_vectors

    @staticmethod
    @once_differentiable
    def backward(ctx, by_sent, by_vectors):
        slopes, sent, weights = ctx.saved_tensors
        results = [torch.zeros_like(x) for x in (slopes, sent, weights)]
        inputs = sent, weights, slopes, by_sent.contiguous(), by_vectors.contiguous()
        ctx.messages.call("nfflr_messages_back_twice", *inputs, *results)
        return *results, None


class Products:
    """As ``nfflr.nn.tensors.products``; ``library`` holds the kernels for these sizes."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library

    def __call__(self, tensors: torch.Tensor, everything: bool) -> torch.Tensor:
        channels = tensors.shape[2]
        return _Products.apply(_fill(tensors), everything, self)[..., :channels]

    def call(self, name: str, everything: bool, tensors: torch.Tensor, *others: torch.Tensor) -> None:
        sizes = ctypes.c_int64(tensors.shape[0]), ctypes.c_int64(everything)
        getattr(self._library, name)(*sizes, *_pointers(tensors, *others))


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensors, everything, products):
        tensors = tensors.contiguous()
        ctx.save_for_backward(tensors)
        ctx.settings = everything, products
        count = N_PRODUCTS if everything else N_INVARIANTS
        values = tensors.new_empty(tensors.shape[0], count, tensors.shape[2])
        products.call("nfflr_products", everything, tensors, values)
        return values

    @staticmethod
    def backward(ctx, slopes):
        return _ProductsBack.apply(slopes, *ctx.saved_tensors, *ctx.settings), None, None


class _ProductsBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slopes, tensors, everything, products):
        slopes = slopes.contiguous()
        ctx.save_for_backward(slopes, tensors)
        ctx.settings = everything, products
        by_tensors = torch.empty_like(tensors)
        products.call("nfflr_products_back", everything, tensors, slopes, by_tensors)
        return by_tensors

    @staticmethod
    @once_differentiable
    def backward(ctx, by_tensors):
        slopes, tensors = ctx.saved_tensors
        everything, products = ctx.settings
        results = torch.empty_like(slopes), torch.empty_like(tensors)
        products.call(
            "nfflr_products_back_twice", everything, tensors, slopes, by_tensors.contiguous(), *results
        )
        return *results, None, None
