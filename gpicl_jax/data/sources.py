"""Where base datasets come from: one `load` for scikit-learn's digits, TFDS, and the user's own files and folders."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpicl_jax.data import omniglot, prepared
from gpicl_jax.data.cache import fingerprint
from gpicl_jax.data.images import ImageDataset, check_labels, pixel_statistics
from gpicl_jax.data.own import read_own
from gpicl_jax.data.resize import check_fits, prepare
from gpicl_jax.data.stored import Arrays, Part, Stored, divide, part_rows
from gpicl_jax.sections import is_path
from gpicl_jax.settings import UserError

# 1,797 digits: images, not writers, are split (the set does not say who wrote what).
_DIGITS = {"train": slice(0, 1200), "validation": slice(1200, 1400), "test": slice(1400, 1797)}
_LISTED = ("mnist", "fashion_mnist", "kmnist", "cifar10", "svhn_cropped", "emnist/balanced", "omniglot")


def load(
    name: str,
    split: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    data_dir: str | Path = "",
    standardize: bool = True,
) -> ImageDataset:
    """Loads one split of a base dataset, standardised by its training split.

    Args:
      name: `digits`; a TFDS set (`mnist`, `emnist/letters`, `mnist:3.0.1`); a name of `data.omniglot`; the path of an .npz
        file (`images` or `features`, and `labels`) or of a folder with one sub-folder for each class, which begins with `.`,
        `/` or `~`.
      split: `train`, `validation` or `test`, or another split that the set has. Where a set has fewer than these three,
        `data.stored.divide` makes them, without an image in two.
      size: height and width to resize to; None leaves the images as they are.
      channels: 1 (grey) or 3; None likewise.
      data_dir: folder of prepared TFDS sets; see `data.prepared.data_folder`. A set that is missing is downloaded and
        prepared there, if TensorFlow is installed.
      standardize: false leaves pixels in the units of 0 … 1.

    Raises:
      UserError: an unknown set or split, damaged or unfit images or labels, more than the device's memory holds.

    Example:
      >>> load("digits", "test").images_NX.shape
      (397, 64)
    """
    stored = find(name, prepared.data_folder(str(data_dir)))
    parts = divide(stored)
    if size is not None and stored.shape[0] == 1:
        raise UserError(
            f"'{name}' holds rows of {stored.shape[1]} features, not images; give --data.features={stored.shape[1]}"
        )
    if split not in parts:
        only = "; it can be meta-tested on, not trained on" if list(parts) == ["test"] else ""
        raise UserError(f"'{name}' has no split '{split}' in {stored.where}; there: {', '.join(parts)}{only}")
    (stored_split, (start, stop)), wanted = parts[split], (size, size, channels)
    num_features = math.prod(want or has or 1 for want, has in zip(wanted, stored.shape, strict=True))
    check_fits(name, stored.counts[stored_split] * (stop - start) // 10, num_features)
    images_NX, labels_N = _arrays(stored, parts[split], size, channels)
    statistics = next((each for each in ("train", "validation") if each in parts), split)
    mean, std = 0.0, 255.0
    if standardize:
        mean, std = pixel_statistics(_arrays(stored, parts[statistics], size, channels)[0])
    return ImageDataset.build(
        images_NX,
        labels_N,
        mean=mean,
        std=std,
        name=stored.name,
        num_classes=stored.num_classes,
        statistics=statistics,
        rotations=stored.rotations,
    )


def find(name: str, folder: Path) -> Stored:
    """The set as it is stored; prepares one that is missing, if that can be done here."""
    if is_path(name):
        path = Path(os.path.expanduser(name))
        try:
            return _read_own(str(path), fingerprint(path))
        except OSError:  # absent or unreadable
            return read_own(str(path))
    if name == "digits":
        return _digits()
    if name in omniglot.NAMES:
        return _or_prepared("omniglot", folder, lambda: omniglot.read_omniglot(name, folder))
    if name == "random":
        raise UserError("'random' is no stored set: its points are fresh in every task; see gpicl_jax.RandomPoints")
    return _or_prepared(name, folder, lambda: prepared.read_prepared(name, folder))


def _or_prepared(name: str, folder: Path, read: Callable[[], Stored]) -> Stored:
    """What `read` returns, once the TFDS set `name` that it needs is there."""
    try:
        return read()
    except prepared.NotPrepared:
        if Path(name).is_dir():
            raise UserError(f"no dataset '{name}'; for the folder of that name, give ./{name}") from None
        prepared.check_name(name)
        prepared.prepare(name, folder)
        return read()


@functools.lru_cache(maxsize=4)
def _read_own(path: str, _fingerprint: str) -> Stored:
    return read_own(path)


@functools.lru_cache(maxsize=8)
def _arrays(stored: Stored, part: Part, size: int | None, channels: int | None) -> Arrays:
    """uint8 [N, X] and labels [N] of a part of a split, resized."""
    split, tenths = part
    images_NHWc, labels_N = stored.read(split)
    rows = part_rows(images_NHWc, labels_N, tenths)
    check_labels(stored.name, labels_N[rows], len(rows), stored.num_classes // stored.rotations)
    images_NX, labels_N = prepare(images_NHWc[rows], size, channels), labels_N[rows]
    if stored.rotations == 1:
        return images_NX, labels_N
    side = size or stored.shape[0]
    images_NHWc, turns = images_NX.reshape(len(images_NX), side, side, -1), range(stored.rotations)
    turned = [np.rot90(images_NHWc, turn, axes=(1, 2)).reshape(images_NX.shape) for turn in turns]
    return np.concatenate(turned), np.concatenate([labels_N * stored.rotations + turn for turn in turns])


@functools.cache
def _digits() -> Stored:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))  # RandomState: its stream is frozen for good
    # 0 … 16 becomes 0 … 240: exact, and fine enough to survive resizing
    images_NHWc = 15 * digits.images.astype(np.uint8)[order][..., None]
    labels_N = digits.target.astype(np.int32)[order]
    return Stored(
        name="digits",
        where="scikit-learn",
        num_classes=10,
        counts={split: rows.stop - rows.start for split, rows in _DIGITS.items()},
        read=lambda split: (images_NHWc[_DIGITS[split]], labels_N[_DIGITS[split]]),
        shape=(8, 8, 1),
    )


def available(data_dir: str | Path = "") -> dict[str, str]:
    """Known base datasets, each with one line: ready (what and where), or the command that gets it.

    Example:
      >>> available()["digits"].split(":")[0]
      'ready'
    """
    folder = prepared.data_folder(str(data_dir))
    lines = {}
    for name in dict.fromkeys(("digits", *_LISTED, *prepared.prepared_names(folder))):
        try:
            stored = _digits() if name == "digits" else prepared.read_prepared(name, folder)
        except prepared.NotPrepared:
            lines[name] = f"missing: {prepared.how_to_get(name, folder)}"
        except UserError as error:
            lines[name] = f"not usable: {error}"
        else:
            counts = ", ".join(f"{split} {count:,}" for split, count in stored.counts.items())
            height, width, channels = (each or "?" for each in stored.shape)
            lines[name] = f"ready: {height}×{width}×{channels}, {stored.num_classes:,} classes, {counts}, in {stored.where}"
    lines["random"] = "ready: 10 random points, fresh for every task"
    return lines
