"""Ziegler–Biersack–Littmark screened nuclear repulsion."""

import torch

COULOMB = 14.399645478425668  # e²/(4πε0), eV·Å
SHARES = (0.18175, 0.50986, 0.28022, 0.02817)  # c_k
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)  # d_k


def zbl_energy(r: torch.Tensor, z_i: torch.Tensor, z_j: torch.Tensor) -> torch.Tensor:
    """Universal repulsion V(r) = Z_i Z_j e²/(4πε0 r) Σ_k c_k exp(−d_k r/a), eV per pair.

    a = 0.46850 Å / (Z_i^0.23 + Z_j^0.23). Ziegler, Biersack and Littmark, *The Stopping and Range of
    Ions in Matter* (Pergamon, 1985).

    Args:
        r: (...), Å.
        z_i, z_j: atomic numbers, broadcastable to ``r``.
    """
    z_i, z_j = z_i.to(r.dtype), z_j.to(r.dtype)
    x = r * (z_i**0.23 + z_j**0.23) / 0.46850
    # Term by term: a compiled loop over four would leave most lanes of a register empty.
    screening = sum(share * torch.exp(-decay * x) for share, decay in zip(SHARES, DECAYS, strict=True))
    return COULOMB * z_i * z_j / r * screening
