"""A cache of decoded images: one uncompressed uint8 .npz for each split that was read once."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpicl_jax.data.stored import Arrays
from gpicl_jax.files import write_atomic

_log = logging.getLogger("gpicl_jax")


def cache_folder() -> Path:
    """`GPICL_CACHE_DIR`, or ~/.cache/gpicl_jax."""
    return Path(os.environ.get("GPICL_CACHE_DIR") or Path.home() / ".cache" / "gpicl_jax").expanduser()


def cached(name: str, version: str, split: str, origin: str, read: Callable[[], Arrays]) -> Arrays:
    """The arrays from the cache, else from `read`, which then fills it.

    Args:
      name, version, split: what the arrays are.
      origin: what makes them what they are, e.g. the names and sizes of their files: two folders of one set may differ.
      read: reads and decodes them, slowly.

    A damaged file is rebuilt, and a folder that cannot be written is passed over, each with a word.
    """
    digest = hashlib.sha256(origin.encode()).hexdigest()[:8]
    path = cache_folder() / f"{name.replace('/', '-')}-{version}-{split}-{digest}.npz"
    try:
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                return file["images"], file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("cache file %s is damaged (%s); reading %s anew", path, error, name)
    images_NHWc, labels_N = read()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: np.savez(file, images=images_NHWc, labels=labels_N))
    except OSError as error:
        _log.warning(
            "cannot write the cache file %s (%s); set GPICL_CACHE_DIR to a folder that can be written", path, error.strerror
        )
    return images_NHWc, labels_N
