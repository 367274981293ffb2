"""Omniglot's background set, divided by alphabets."""

import numpy as np

from gpicl_jax.data import prepared
from gpicl_jax.data.omniglot import SEED, Division, Omniglot, cut
from gpicl_jax.data.stored import Stored
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError

PAIRS = "omniglot/pairs"
_SHARES = (0.7, 0.15)  # of characters, for training and validation; the rest for the test


@register(PAIRS)
class Alphabets(Omniglot):
    """The 30 alphabets of Omniglot's background set, shuffled and divided 70 / 15 / 15% by number of characters, not turned."""

    rotations = 1

    @classmethod
    def divide(cls, name: str, base: Stored) -> Division:
        alphabet_C = alphabets(base)
        order = np.random.RandomState(SEED).permutation(np.unique(alphabet_C))
        sizes = np.cumsum([(alphabet_C == alphabet).sum() for alphabet in order])
        ends = np.searchsorted(sizes, np.cumsum(_SHARES) * len(alphabet_C)) + 1
        return {split: (("train",), np.flatnonzero(np.isin(alphabet_C, own))) for split, own in cut(order, ends).items()}


def alphabets(base: Stored) -> np.ndarray:
    """Returns the alphabet of each character of the background set, whose labels are 0 … 963: int [964]."""
    labels_N, alphabets_N = prepared.read_numbers(base.where, "train", ("label", "alphabet"))
    return alphabets_N[np.unique(labels_N, return_index=True)[1]]


def pairs(split: str, data_dir: str = "") -> np.ndarray:
    """Returns all pairs of two characters of one alphabet of `split` of `omniglot/pairs`: their labels, int32 [P, 2].

    Raises:
      UserError: no alphabet of the split has two characters.
    """
    base = prepared.read_prepared("omniglot", prepared.data_folder(data_dir))
    alphabet_C, (_, labels) = alphabets(base), Alphabets.divide(PAIRS, base)[split]
    pairs_P2 = labels[np.stack(np.triu_indices(len(labels), k=1), axis=1)]
    pairs_P2 = pairs_P2[np.equal(*alphabet_C[pairs_P2.T])]
    if not len(pairs_P2):
        raise UserError(f"no alphabet of {PAIRS} {split} has two characters")
    return pairs_P2.astype(np.int32)
