"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015) as few-shot learning divides it, by characters.

Ink is 255 and paper 0, which is 1 − image in the units of 0 … 1.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from gpicl_jax.data import prepared
from gpicl_jax.data.stored import Arrays, Dataset, Stored
from gpicl_jax.registry import register

FEW_SHOT = "omniglot/few_shot"
SEED = 1  # of all divisions, Finn's
_TRAIN, _VALIDATION = 1100, 100  # characters of Finn's division; the rest, 423, are for the test
Division = dict[str, tuple[tuple[str, ...], np.ndarray]]


@register("omniglot/few_shot")
@register("omniglot/small1")
@register("omniglot/small2")
class Omniglot(Dataset):
    """Omniglot in one of three divisions into `train`, `validation` and `test`, which share no character.

    - `omniglot/few_shot`: all 1,623 characters, shuffled with seed 1 and divided 1,100 / 100 / 423 as by Finn et al. (2017).
      The shuffle is ours, since theirs shuffles file names in Python 2. After the division each character turned by 90°, 180°
      and 270° is another class.
    - `omniglot/small1`, `omniglot/small2`: Lake's two smaller background sets of 5 alphabets. A tenth of their characters is
      for validation, and the test is his evaluation set. Turned characters are classes here too.
    """

    rotations = 4

    @classmethod
    def read(cls, name: str, folder: Path) -> Stored:
        return _divided(cls, name, prepared.read_prepared("omniglot", folder))

    @classmethod
    def divide(cls, name: str, base: Stored) -> Division:
        """Returns for each split the stored splits that it is made of, and which of their labels it has."""
        shuffled = np.random.RandomState(SEED).permutation
        if name == FEW_SHOT:
            labels = cut(shuffled(base.num_classes), (_TRAIN, _TRAIN + _VALIDATION))
            return {split: (("train", "test"), own) for split, own in labels.items()}
        small = name.split("/")[1]
        train, validation = np.split(order := shuffled(np.unique(base.read(small)[1])), [len(order) - len(order) // 10])
        test = np.unique(base.read("test")[1])
        return {"train": ((small,), train), "validation": ((small,), validation), "test": (("test",), test)}


def cut(order: np.ndarray, ends: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns the parts of `order` for training, validation and test. `ends` are the ends of the first two."""
    return dict(zip(("train", "validation", "test"), np.split(order, ends), strict=True))


@functools.lru_cache(maxsize=8)
def _divided(kind: type[Omniglot], name: str, base: Stored) -> Stored:
    division = kind.divide(name, base)

    def read(split: str) -> Arrays:
        sources, labels = division[split]
        parts = [base.read(source) for source in sources]
        keeps = [np.isin(labels_N, labels) for _, labels_N in parts]
        images_NHWc = np.concatenate([images[keep] for (images, _), keep in zip(parts, keeps, strict=True)])
        return 255 - images_NHWc[..., :1], np.concatenate([own[keep] for (_, own), keep in zip(parts, keeps, strict=True)])

    return dataclasses.replace(
        base,
        name=name,
        num_classes=base.num_classes * kind.rotations,
        counts={split: 20 * kind.rotations * len(labels) for split, (_, labels) in division.items()},
        read=read,
        shape=(*base.shape[:2], 1),
        rotations=kind.rotations,
    )
