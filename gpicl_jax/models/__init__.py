"""Flax modules, one per file, each for one episode without a batch axis."""

from gpicl_jax.models.transformer import Transformer

__all__ = ["Transformer"]
