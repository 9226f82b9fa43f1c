"""Potentials with fixed weights as fast callables: compiled graphs and fused kernels."""
