"""A cache of decoded images: one uncompressed uint8 .npz for each split that was read once."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpicl_jax.data.stored import Arrays
from gpicl_jax.files import write_atomic

_FORMAT = 1  # to be raised when decoding changes
_log = logging.getLogger("gpicl_jax")


def cache_folder() -> Path:
    """Returns the folder of the cache: `GPICL_CACHE_DIR`, else ~/.cache/gpicl_jax."""
    return Path(os.path.expanduser(os.environ.get("GPICL_CACHE_DIR") or "~/.cache/gpicl_jax"))


def cached(name: str, version: str, split: str, origin: str, read: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays from the cache, or from `read` and fills the cache.

    A damaged file is rebuilt. A folder that cannot be written is left alone. Both print a line.

    Args:
      name, version, split: what the arrays are.
      origin: what the arrays depend on: names, sizes and times of their files. Two folders of one set may differ.
      read: reads and decodes the arrays, slowly.
    """
    digest = hashlib.sha256(f"{_FORMAT} {origin}".encode()).hexdigest()[:8]
    folder = cache_folder()
    path = folder / f"{name.replace('/', '-')}-{version}-{split}-{digest}.npz"
    try:
        if path.is_file():
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return arrays["images"], arrays["labels"]
    except Exception as error:  # damage shows as whatever the readers of zip and npy files happen to raise
        _log.warning("cache file %s is damaged (%s); reading %s anew", path, error, name)
    images_NHWc, labels_N = read()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: np.savez(file, images=images_NHWc, labels=labels_N))
    except OSError as error:
        _log.warning(
            "cannot write the cache file %s (%s); set GPICL_CACHE_DIR to a folder that can be written", path, error.strerror
        )
    return images_NHWc, labels_N


def fingerprint(path: Path) -> str:
    """Returns names, sizes and times of a file, or of all files in a folder. The text changes when they do.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> before = fingerprint(folder)
      >>> (folder / "a.txt").touch()
      >>> fingerprint(folder) != before
      True
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(file.relative_to(path.parent).as_posix(), file.stat()) for file in files if file.is_file()]
    return "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
