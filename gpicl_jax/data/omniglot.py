"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015) as few-shot learning divides it: by characters, or by alphabets.

Ink is 255 and paper 0, which is 1 − image in the units of 0 … 1.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from gpicl_jax.data import prepared
from gpicl_jax.data.cache import fingerprint
from gpicl_jax.data.stored import Arrays, Dataset, Stored
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError

FEW_SHOT, PAIRS = "omniglot/few_shot", "omniglot/pairs"
_SEED = 1  # of both divisions, Finn's
_TRAIN, _VALIDATION = 1100, 100  # characters of Finn's division; the rest, 423, are for the test
_SHARES = {"train": 0.7, "validation": 0.15}  # of characters, in the study's division by alphabets; the rest for the test
_ROTATIONS = 4
Labels = dict[str, np.ndarray]


@register("omniglot/few_shot")
@register("omniglot/small1")
@register("omniglot/small2")
@register("omniglot/pairs")
class Omniglot(Dataset):
    """One of four ways to divide Omniglot, with `train`, `validation` and `test`, which share no character.

    - `omniglot/few_shot`: all 1,623 characters, shuffled with seed 1 and divided 1,100 / 100 / 423 as by Finn et al. (2017);
      the shuffle is ours, since theirs is one of file names in Python 2. Each character turned by 90°, 180° and 270° is a
      class of its own, after the division.
    - `omniglot/small1`, `omniglot/small2`: Lake's two smaller background sets of 5 alphabets; a tenth of their characters
      are for validation, and the test is his evaluation set. Rotations likewise.
    - `omniglot/pairs`: the 30 alphabets of the background set, shuffled with seed 1 and divided 70 / 15 / 15% by number of
      characters, as in the study; no rotations. For problems of two characters of one alphabet.
    """

    @classmethod
    def read(cls, name: str, folder: Path) -> Stored:
        base = prepared.read_prepared("omniglot", folder)
        return _divided(name, base, fingerprint(Path(base.where)))


@functools.lru_cache(maxsize=8)
def _divided(name: str, base: Stored, _fingerprint: str) -> Stored:
    labels = {FEW_SHOT: _by_character, PAIRS: _by_alphabet}.get(name, _small)(name, base)
    sources = ("train", "test") if name == FEW_SHOT else ("train",)
    of_split = {split: sources for split in labels}
    if name not in (FEW_SHOT, PAIRS):
        small = name.split("/")[1]
        of_split = {"train": (small,), "validation": (small,), "test": ("test",)}

    def read(split: str) -> Arrays:
        parts = [base.read(source) for source in of_split[split]]
        keeps = [np.isin(labels_N, labels[split]) for _, labels_N in parts]
        images_NHWc = np.concatenate([images[keep] for (images, _), keep in zip(parts, keeps, strict=True)])
        return 255 - images_NHWc[..., :1], np.concatenate([own[keep] for (_, own), keep in zip(parts, keeps, strict=True)])

    rotations = 1 if name == PAIRS else _ROTATIONS
    drawings = 20 * rotations
    return dataclasses.replace(
        base,
        name=name,
        num_classes=base.num_classes * rotations,
        counts={split: drawings * len(own) for split, own in labels.items()},
        read=read,
        shape=(*base.shape[:2], 1),
        rotations=rotations,
    )


def _by_character(_: str, base: Stored) -> Labels:
    order = np.random.RandomState(_SEED).permutation(base.num_classes)
    return _cut(order, _TRAIN, _TRAIN + _VALIDATION)


def _small(name: str, base: Stored) -> Labels:
    known = np.unique(base.read(name.split("/")[1])[1])
    order = np.random.RandomState(_SEED).permutation(known)
    cut = len(order) - len(order) // 10
    return {"train": order[:cut], "validation": order[cut:], "test": np.unique(base.read("test")[1])}


def _by_alphabet(_: str, base: Stored) -> Labels:
    labels, alphabets = alphabet_of(base)
    order = np.random.RandomState(_SEED).permutation(np.unique(alphabets))
    sizes = np.array([(alphabets == alphabet).sum() for alphabet in order])
    ends = np.searchsorted(np.cumsum(sizes), np.cumsum(list(_SHARES.values())) * sizes.sum()) + 1
    found = _cut(order, *ends)
    return {split: labels[np.isin(alphabets, own)] for split, own in found.items()}


def _cut(order: np.ndarray, first: int, second: int) -> Labels:
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def alphabet_of(base: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the background set in ascending order, and the alphabet of each, [964]."""
    labels_N, alphabets_N = prepared.read_numbers(base.where, "train", ("label", "alphabet"))
    labels, first = np.unique(labels_N, return_index=True)
    return labels, alphabets_N[first]


def pairs(split: str, data_dir: str = "") -> np.ndarray:
    """All pairs of two characters of one alphabet of `split` of `omniglot/pairs`: their labels, int32 [P, 2].

    Raises:
      UserError: no alphabet of the split has two characters.
    """
    base = prepared.read_prepared("omniglot", prepared.data_folder(data_dir))
    labels, alphabets = alphabet_of(base)
    own = np.isin(labels, _by_alphabet(PAIRS, base)[split])
    labels, alphabets = labels[own], alphabets[own]
    one, other = np.triu_indices(len(labels), k=1)
    same = alphabets[one] == alphabets[other]
    if not same.any():
        raise UserError(f"no alphabet of {PAIRS} {split} has two characters")
    return np.stack([labels[one[same]], labels[other[same]]], axis=1).astype(np.int32)
