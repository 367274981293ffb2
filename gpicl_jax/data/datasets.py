"""Base datasets by name: registered ones, TFDS sets, and the user's own files and folders."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from gpicl_jax.data import prepared
from gpicl_jax.data.own import as_images, read_own
from gpicl_jax.data.resize import check_device_memory, resized
from gpicl_jax.data.stored import Arrays, Part, Stored, check_labels, divide, part_rows, pixel_statistics
from gpicl_jax.registry import about, find, names
from gpicl_jax.sections import is_path
from gpicl_jax.settings import UserError

_LISTED = ("mnist", "fashion_mnist", "kmnist", "cifar10", "svhn_cropped", "emnist/balanced", "omniglot")


def read_split(
    name: str, split: str, folder: Path, *, size: int | None, channels: int | None, standardize: bool
) -> dict[str, Any]:
    """Returns one split of a base dataset, as `ImageDataset.build` takes it.

    Raises:
      UserError: see `load`.
    """
    stored = find_stored(name, folder)
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
    check_device_memory(name, stored.counts[stored_split] * (stop - start) // 10, num_features)
    images_NX, labels_N = _arrays(stored, parts[split], size, channels)
    statistics, mean, std = next((each for each in ("train", "validation") if each in parts), split), 0.0, 255.0
    if standardize:
        mean, std = pixel_statistics(_arrays(stored, parts[statistics], size, channels)[0])
    about = {"name": stored.name, "num_classes": stored.num_classes, "rotations": stored.rotations, "statistics": statistics}
    return {"images_NX": images_NX, "labels_N": labels_N, "mean": mean, "std": std, **about}


def find_stored(name: str, folder: Path) -> Stored:
    """Returns the stored set. A missing TFDS set is prepared, if that is possible here."""
    if is_path(name):
        return read_own(name)
    if name in names("source") and name not in names("dataset"):
        raise UserError(f"'{name}' is no stored set: its examples are fresh; see gpicl_jax/tasks/sources")
    try:
        return _read(name, folder)
    except prepared.NotPrepared as missing:
        if Path(name).is_dir():
            raise UserError(f"no dataset '{name}'; for the folder of that name, give ./{name}") from None
        prepared.check_name(missing.name)
        prepared.download(missing.name, folder)
        return _read(name, folder)


def is_missing(name: str, folder: Path) -> bool:
    """Returns whether `name` is a set of TFDS that is not prepared in `folder`.

    Raises:
      UserError: there is no set of that name, or its files cannot be read.
    """
    if is_path(name) or (name in names("source") and name not in names("dataset")):
        return False
    try:
        _read(name, folder)
    except prepared.NotPrepared as missing:
        prepared.check_name(missing.name)
        return True
    return False


def _read(name: str, folder: Path) -> Stored:
    return (find("dataset", name).read if name in names("dataset") else prepared.read_prepared)(name, folder)


@functools.lru_cache(maxsize=8)
def _arrays(stored: Stored, part: Part, size: int | None, channels: int | None) -> Arrays:
    """Returns uint8 [N, X] and labels [N] of a part of a split, resized."""
    split, tenths = part
    images, labels_N = map(np.asarray, stored.read(split))
    images_NHWc = as_images(stored.name, images)
    if (number := stored.rotations * len(images_NHWc)) != stored.counts[split]:
        raise UserError(f"'{stored.name}' {split} has {number:,} images, but says {stored.counts[split]:,}; correct it")
    check_labels(stored.name, labels_N, len(images_NHWc), stored.num_classes // stored.rotations)
    rows = part_rows(images_NHWc, labels_N, tenths)
    check_labels(stored.name, labels_N[rows], len(rows), stored.num_classes // stored.rotations)
    images_NX, labels_N = resized(images_NHWc[rows], size, channels), labels_N[rows]
    side, turns = size or stored.shape[0], range(stored.rotations)
    if stored.rotations == 1:
        return images_NX, labels_N
    turned = [np.rot90(images_NX.reshape(len(rows), side, side, -1), turn, axes=(1, 2)) for turn in turns]
    labels = [labels_N * stored.rotations + turn for turn in turns]
    return np.concatenate(turned).reshape(-1, images_NX.shape[1]), np.concatenate(labels)


def available(data_dir: str | Path = "") -> dict[str, str]:
    """Returns known base datasets, each with one line: ready (what and where), or the command that gets it.

    Example:
      >>> available()["digits"].split(":")[0]
      'ready'
    """
    folder = prepared.data_folder(str(data_dir))
    lines = {}
    for name in dict.fromkeys((*names("dataset"), *_LISTED, *prepared.prepared_names(folder))):
        try:
            stored = _read(name, folder)
        except prepared.NotPrepared as missing:
            lines[name] = f"missing: {missing.how_to_get}"
        except UserError as error:
            lines[name] = f"not usable: {error}"
        else:
            counts = ", ".join(f"{split} {count:,}" for split, count in stored.counts.items())
            height, width, channels = (each or "?" for each in stored.shape)
            lines[name] = f"ready: {height}×{width}×{channels}, {stored.num_classes:,} classes, {counts}, in {stored.where}"
    return lines | {name: f"ready: {about(find('source', name))}" for name in names("source") if name not in lines}
