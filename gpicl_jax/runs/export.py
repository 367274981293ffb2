"""One file with a trained learner: an .npz of its parameters, with a JSON card inside. No pickle is written or read."""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_learner
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.files import write_atomic
from gpicl_jax.sections import Config, is_path, short_name
from gpicl_jax.settings import UserError, one_line

FORMAT = 1
MOST_BYTES = 100 * 10**6  # what GitHub takes; the paper's Transformer has 13 MB
_CARD, _PARAMS = "card", "params/"


def write_export(path: Path, params: Any, config: Config, about: dict[str, Any]) -> int:
    """Writes parameters and a card to `path`, which is whole or absent. Returns the number of bytes, the same every time.

    The card has `about`, the settings without folders of this machine, and a sha256 of all. The arrays are `params/` and the
    names that the parameters have in their tree.

    Raises:
      UserError: the file would be above 100 MB, or cannot be written.
    """
    arrays = {_PARAMS + name: np.asarray(leaf) for name, leaf in flat(params).items()}
    settings = as_dict(config)
    settings["data"]["train"] = [short_name(name) if is_path(name) else name for name in config.data.train]
    settings["data"]["dir"] = ""
    card = json.loads(json.dumps({"format": FORMAT, "config": settings, **about}))
    card["sha256"] = _digest(arrays, card)
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        raise UserError(
            f"{path} would have {size / 1e6:,.0f} MB, above the {MOST_BYTES / 1e6:.0f} MB that repositories take; "
            "share the run's folder instead, which opens as well"
        )
    text = json.dumps(card, indent=2, ensure_ascii=False).encode()
    try:
        write_atomic(path, lambda file: np.savez(file, **{_CARD: np.frombuffer(text, np.uint8)}, **arrays))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another file") from None
    return path.stat().st_size


def read_export(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays by the names of `flat`, and the card.

    Raises:
      UserError: the file cannot be read, is damaged, of something else, or of a newer version.
    """
    remedy = "give a file that 'gpicl export' wrote, or a run's folder"
    try:
        with np.load(path, allow_pickle=False) as file:
            if _CARD not in file.files:
                raise UserError(f"{path} is no exported run: it has no card; {remedy}")
            arrays = {name: file[name] for name in file.files}
        card = json.loads(arrays.pop(_CARD).tobytes())
        made_by, known = card["format"], card.pop("sha256")
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no file or folder {path}; {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or one_line(error)}; {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or no exported run ({one_line(error)}); {remedy}") from None
    if made_by > FORMAT:
        raise UserError(f"{path} has format {made_by}, and this gpicl_jax reads up to {FORMAT}; install a newer gpicl_jax")
    if known != _digest(arrays, card):
        raise UserError(f"{path} is damaged: its sha256 is not that of its content; export it again, or copy it again")
    return {name.removeprefix(_PARAMS): array for name, array in arrays.items()}, card


def opened(path: Path) -> tuple[Any, Config]:
    """Returns parameters, in the structure that their learner has, and the config of an exported file.

    Raises:
      UserError: see `read_export`, or its settings or parameters are unknown to this version.
    """
    arrays, card = read_export(path)
    try:
        config = config_from_dict(card["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    like = jax.eval_shape(make_learner(config).init, jax.random.key(0))
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in flat(like).items()}
    if expected != {name: (array.shape, array.dtype) for name, array in arrays.items()}:
        raise UserError(
            f"{path} has other parameters than this version's {config.model.name}; use the gpicl_jax that made it: commit "
            f"{card.get('commit') or 'unknown'}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in flat(like)]), config


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name, in its order.

    Example:
      >>> flat({"head": {"kernel": 1}, "rates": [2, 3]})
      {'head/kernel': 1, 'rates/0': 2, 'rates/1': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _digest(arrays: dict[str, np.ndarray], card: dict[str, Any]) -> str:
    """Returns the sha256 of names, types, shapes and numbers, and of the rest of the card."""
    found = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
