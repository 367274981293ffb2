"""Files that are never half-written."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomic(target: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a temporary file beside `target` by `write`, then renames it to `target`.

    Example:
      >>> folder = Path(tempfile.mkdtemp())
      >>> write_atomic(folder / "a.txt", lambda file: file.write(b"whole")).read_text()
      'whole'
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
