"""The user's own images: one .npz file, or a folder with one sub-folder for each class."""

import functools
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from gpicl_jax.data.cache import fingerprint
from gpicl_jax.data.decode import decode_images
from gpicl_jax.data.stored import Arrays, Stored, check_labels
from gpicl_jax.sections import short_name
from gpicl_jax.settings import UserError, one_line


def read_own(name: str) -> Stored:
    """Returns the images at the path `name`, read again only when they change. See `read_npz` and `read_folder`."""
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
            return _read(path, fingerprint(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if path.exists():
        raise UserError(f"{path} is neither a folder nor an .npz file; give a folder of class folders, or a file.npz")
    raise UserError(f"no file or folder {path}; check the path")


@functools.lru_cache(maxsize=4)
def _read(path: Path, _fingerprint: str) -> Stored:
    return read_folder(path) if path.is_dir() else read_npz(path)


def read_npz(path: Path) -> Stored:
    """Returns the arrays `images` (uint8 [N, height, width] or [N, height, width, 1 or 3]) and `labels` (N integers from 0).

    In place of images an array `features` (floats [N, X]) may hold the outputs of a frozen network: see `from_features`.

    Raises:
      UserError: no such arrays, Python objects in them, other shapes or types, one class only.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is no .npz file; save it with numpy.savez")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            inputs = "features" if "features" in arrays and "images" not in arrays else "images"
            for name in (inputs, "labels"):
                if name not in arrays:
                    there = ", ".join(arrays) or "none"
                    raise UserError(f"{path} has no array '{name}'; expected 'images' and 'labels', found: {there}")
            images, labels_N = arrays[inputs], arrays["labels"]
    except UserError:
        raise
    except Exception as error:  # damage shows as whatever the readers of zip and npy files happen to raise
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds Python objects, which are not read; save plain arrays: uint8 images, integer labels"
            ) from None
        raise UserError(f"{path} is no readable .npz file ({one_line(error)}); save it anew with numpy.savez") from None
    is_features = images.dtype.kind == "f" and images.ndim == 2
    if is_features != (inputs == "features"):
        raise UserError(
            f"'{inputs}' in {path} are {images.dtype} {images.shape}; expected 'images', uint8 (0 to 255) [N, height, width] "
            "or [N, height, width, 1 or 3], or 'features', floats [N, X]"
        )
    return _stored(path, as_images(str(path), images), labels_N)


def as_images(where: str, images: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, height, width, 1 or 3] from images, with or without the last axis, or from float features [N, X].

    Raises:
      UserError: another type or shape.
    """
    if images.dtype.kind == "f" and images.ndim == 2:
        return from_features(where, images)
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
        or 0 in images.shape[1:]
    ):
        raise UserError(
            f"images of '{where}' are {images.dtype} {images.shape}; expected uint8 (0 to 255) [N, height, width] or "
            "[N, height, width, 1 or 3], or features: floats [N, X]"
        )
    return images.reshape(*images.shape[:3], *(images.shape[3:] or (1,)))


def from_features(where: str, features_NX: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, 1, X, 1] of float [N, X]: each row standardised by its own mean and deviation, tanh, 256 levels.

    The authors standardise a ResNet's features over the dataset, then take tanh (google/learned_optimization, resnet.py). Here
    a row's statistics need no other row, so training images hold no information about test images.

    Raises:
      UserError: X is 1, or not all numbers are finite.

    Example:
      >>> from_features("mine.npz", np.array([[0.0, 1.0, 2.0]]))[0, 0, :, 0].tolist()
      [20, 128, 235]
    """
    rows_NX = features_NX.astype(np.float32)
    if rows_NX.shape[1] < 2:
        raise UserError(f"features of '{where}' are {features_NX.shape}; expected floats [N, X] with X above 1")
    if not np.isfinite(rows_NX).all():
        raise UserError(f"features of '{where}' are not all finite; leave out the rows with NaN or infinity")
    deviation_N1 = np.maximum(rows_NX.std(axis=1, keepdims=True), 1e-6)
    squashed_NX = np.tanh((rows_NX - rows_NX.mean(axis=1, keepdims=True)) / deviation_N1)
    return np.round(127.5 + 127.5 * squashed_NX).astype(np.uint8)[:, None, :, None]


def read_folder(path: Path) -> Stored:
    """Returns the images of a folder, which has a sub-folder of image files for each class, named in the order of the labels.

    Raises:
      UserError: fewer than two class folders, one without images, a damaged image, images of different sizes.
    """
    Image.init()
    classes = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    if len(classes) < 2:
        found = f"only '{classes[0].name}'" if classes else "none"
        raise UserError(f"{path} has {found} of the class folders it needs; expected two or more, one for each class")
    files = [sorted(item for item in folder.iterdir() if item.suffix.lower() in Image.EXTENSION) for folder in classes]
    empty = [folder.name for folder, each in zip(classes, files, strict=True) if not each]
    if empty:
        raise UserError(f"class folder {path / empty[0]} has no image; add images or delete it")
    labels_N = np.repeat(np.arange(len(classes)), [len(each) for each in files])
    contents = ((str(file.relative_to(path)), file.read_bytes()) for each in files for file in each)
    return _stored(path, decode_images(str(path), contents), labels_N)


def _stored(path: Path, images_NHWc: np.ndarray, labels_N: np.ndarray) -> Stored:
    check_labels(str(path), labels_N, len(images_NHWc), None)
    arrays: Arrays = images_NHWc, labels_N
    num_classes, counts = int(labels_N.max()) + 1, {"all": len(labels_N)}
    return Stored(short_name(str(path)), str(path), num_classes, counts, lambda _: arrays, images_NHWc.shape[1:])
