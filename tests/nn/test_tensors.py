"""Products and messages of Cartesian tensors against sums over full tensors."""

import string
from itertools import combinations

import pytest
import torch
from scipy.spatial.transform import Rotation

from nfflr.nn.moments import density_moments, full_tensor_index, monomials, traceless_projection
from nfflr.nn.radial import bessel
from nfflr.nn.tensors import (
    INVARIANT_ORDER,
    MATRIX_ORDER,
    N_INVARIANTS,
    N_MATRICES,
    N_PRODUCTS,
    N_VECTORS,
    SIZES,
    VECTOR_ORDER,
    bond_messages,
    products,
    traceless,
)

# Of s, v, m and t, as sums over full tensors; in the order of ``products``.
INVARIANTS = (
    *("s", "v_a v_a", "m_ab m_ab", "t_abc t_abc", "m_ab v_a v_b", "m_ab m_bc m_ca", "t_abc m_bc v_a"),
    *("t_abc t_abd m_cd", "m_ab v_b m_ac v_c", "t_abc m_bc t_ade m_de", "t_abc v_c t_abd v_d"),
    *("t_abc m_bc m_ad v_d", "t_acd t_bcd m_ae m_be", "t_acd t_bcd t_aef t_bef"),
)
VECTORS = ("v_a", "m_ab v_b", "t_abc m_bc", "m_ab m_bc v_c", "t_abc m_bd m_dc", "t_abc v_b v_c")
MATRICES = ("m_ab", "v_a v_b", "m_ac m_cb", "t_abc v_c", "t_acd t_bcd", "t_abc m_cd v_d", "t_abc t_cde m_de")


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full(tensors, rank):
    """Components (N, 3, …, 3, C) of one rank of tensors (N, M, C)."""
    part = tensors.split(SIZES[: 3 if tensors.shape[1] == 10 else 4], dim=1)[rank]
    n, _, c = part.shape
    if rank == 0:
        return part[:, 0]
    return part.index_select(1, full_tensor_index(3, rank)).view(n, *[3] * rank, c)


def contraction(text, tensors, out=""):
    """The sum over repeated axes that a text such as ``m_ab v_b`` stands for, (N, …, C)."""
    factors = [factor.partition("_")[::2] for factor in text.split()]
    operands = [full(tensors, "svmt".index(name)) for name, _ in factors]
    terms = ",".join(f"N{axes}C" for _, axes in factors)
    return torch.einsum(f"{terms}->N{out}C", *operands)


def test_products_are_the_sums_that_they_stand_for():
    tensors = drawn(4, 20, 3)
    values = products(tensors, True)
    assert values.shape == (4, N_PRODUCTS, 3)
    for k, text in enumerate(INVARIANTS):
        assert torch.allclose(values[:, k], contraction(text, tensors), rtol=1e-12, atol=1e-12), text
    vectors = values[:, N_INVARIANTS:][:, : 3 * N_VECTORS].unflatten(1, (3, N_VECTORS))
    for k, text in enumerate(VECTORS):
        assert torch.allclose(vectors[:, :, k], contraction(text, tensors, "a"), rtol=1e-12, atol=1e-12), text
    unique = [3 * a + b for a, b in monomials(2)[4:]]
    matrices = values[:, -6 * N_MATRICES :].unflatten(1, (6, N_MATRICES))
    for k, text in enumerate(MATRICES):
        whole = contraction(text, tensors, "ab")
        assert torch.allclose(whole, whole.transpose(1, 2), atol=1e-11), text
        expected = whole.flatten(1, 2)[:, unique]
        assert torch.allclose(matrices[:, :, k], expected, rtol=1e-12, atol=1e-12), text
    assert torch.equal(products(tensors, False), values[:, :N_INVARIANTS])


@pytest.mark.parametrize(
    "texts, orders", [(INVARIANTS, INVARIANT_ORDER), (VECTORS, VECTOR_ORDER), (MATRICES, MATRIX_ORDER)]
)
def test_the_body_order_is_the_number_of_factors_and_the_centre(texts, orders):
    assert [len(text.split()) + 1 for text in texts] == list(orders)


def test_traces_are_removed_and_nothing_else():
    tensors = drawn(2, 20, 3)
    projection = traceless(3)
    clean = projection @ tensors
    assert full(clean, 2).diagonal(dim1=1, dim2=2).sum(-1).abs().max() < 1e-14
    assert torch.einsum("NaabC->NbC", full(clean, 3)).abs().max() < 1e-14
    assert torch.allclose(projection @ clean, clean, atol=1e-14)  # a projection
    assert torch.equal(clean[:, :4], tensors[:, :4])
    assert torch.equal(projection[:10, :10], traceless(2))


def test_it_is_the_projection_of_moments_where_unit_vectors_are_products():
    vectors = drawn(3, 2, 5)
    moments = density_moments(vectors, None, lambda r: bessel(r, 2, 6.0), 3)  # (N, B, M)
    expected = (moments @ traceless_projection(3)).transpose(1, 2)
    assert torch.allclose(traceless(3) @ moments.transpose(1, 2), expected, atol=1e-14)


def message_of_full_tensors(radial, unit, sent, rank):
    """One rank of the message (E, 3, …, 3, C): symmetric products of u with what it is contracted with."""
    h0, h1, h2 = (full(sent, k) for k in range(3))
    w = torch.einsum("EabC,Ea->EbC", h2, unit)
    scalars = h0, torch.einsum("EaC,Ea->EC", h1, unit), torch.einsum("EaC,Ea->EC", w, unit)
    first = (0, 3, 8, 14)[rank]
    axes = string.ascii_lowercase[:rank]

    def symmetric(axes_of_tensor, tensor, weight):
        """Sum over the ways to give the tensor its axes; u has the others."""
        total = 0
        for own in combinations(axes, axes_of_tensor):
            others = [a for a in axes if a not in own]
            terms = ",".join(["EC", f"E{''.join(own)}C", *(f"E{a}" for a in others)])
            total = total + torch.einsum(f"{terms}->E{axes}C", weight, tensor, *[unit] * len(others))
        return total

    result = symmetric(0, sum(radial[:, first + k] * scalars[k] for k in range(3)), torch.ones_like(h0))
    if rank:
        result = result + symmetric(1, h1, radial[:, first + 3]) + symmetric(1, w, radial[:, first + 4])
    if rank > 1:
        result = result + symmetric(2, h2, radial[:, first + 5])
    return result


def test_messages_are_symmetric_products_with_the_unit_vector():
    radial, sent, unit = drawn(5, 20, 3), drawn(5, 10, 3, seed=1), drawn(5, 3, seed=2)
    unit = unit / unit.norm(dim=1, keepdim=True)
    message = bond_messages(radial, unit, sent)
    for rank in range(4):
        expected = message_of_full_tensors(radial, unit, sent, rank)
        assert torch.allclose(full(message, rank), expected, rtol=1e-12, atol=1e-12), rank


def test_messages_rotate_with_what_is_sent():
    rotation = torch.from_numpy(
        Rotation.random(random_state=0).as_matrix() @ [[1, 0, 0], [0, 1, 0], [0, 0, -1.0]]
    )
    radial, sent, unit = drawn(5, 20, 3), drawn(5, 10, 3, seed=1), drawn(5, 3, seed=2)
    unit = unit / unit.norm(dim=1, keepdim=True)
    turned = [full(sent, 0)[:, None], torch.einsum("ab,NbC->NaC", rotation, full(sent, 1))]
    matrix = torch.einsum("ab,cd,NbdC->NacC", rotation, rotation, full(sent, 2)).flatten(1, 2)
    turned.append(matrix[:, [3 * a + b for a, b in monomials(2)[4:]]])
    before, after = (
        bond_messages(radial, unit, sent),
        bond_messages(radial, unit @ rotation.T, torch.cat(turned, 1)),
    )
    assert torch.allclose(after[:, 0], before[:, 0], atol=1e-12)
    expected = torch.einsum("ad,be,cf,NdefC->NabcC", *[rotation] * 3, full(before, 3))
    assert torch.allclose(full(after, 3), expected, atol=1e-12)
