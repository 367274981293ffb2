"""Base datasets: images on the device, labels, and the statistics that standardise them."""

from gpicl_jax.data.images import ImageDataset
from gpicl_jax.data.omniglot import PAIRS, pairs
from gpicl_jax.data.sources import available, load

__all__ = ["PAIRS", "ImageDataset", "available", "load", "pairs"]
