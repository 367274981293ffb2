"""The folder of one run. One command at a time uses it, and its files are never half-written.

Where several processes train one run, only the first writes. The others skip every write and the lock.
"""

import fcntl
import json
import platform
import subprocess
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from gpicl_jax import __version__
from gpicl_jax.config import load_config, to_toml
from gpicl_jax.files import write_atomic
from gpicl_jax.processes import is_writer
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

CONFIG = "config.toml"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


class RunFolder:
    """Paths and files of a run. `create` or `open` makes one. A writer must hold `lock()`.

    Example:
      >>> import tempfile
      >>> folder = RunFolder.create(Path(tempfile.mkdtemp()) / "run", Config())
      >>> folder.config() == Config()
      True
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return is_writer()

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Returns a new run in a missing or empty folder.

        Raises:
          UserError: the folder holds a run or other files, or cannot be made or written.
        """
        folder = cls(path)
        try:
            if folder.writes:
                folder._check_free()  # before a lock file is put among somebody's files
                path.mkdir(parents=True, exist_ok=True)
                with folder.lock():
                    folder._check_free()
                    folder.write_config(config)
        except OSError as error:
            raise UserError(f"cannot write to run folder {path}: {error.strerror}; choose another --run-dir") from None
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Returns an existing run.

        Raises:
          UserError: the folder holds no run.
        """
        try:
            if (path / CONFIG).is_file():
                return cls(path)
        except OSError as error:
            raise UserError(f"cannot read run folder {path}: {error.strerror}") from None
        raise UserError(f"no run in {path} (no {CONFIG} there); give the folder that 'gpicl train' named")

    def _check_free(self) -> None:
        if (self.path / CONFIG).is_file():
            raise UserError(f"{self.path} already holds a run; continue it with --resume, or choose another --run-dir")
        if self.path.exists() and any(item.name != ".lock" for item in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run; choose another --run-dir")

    def config(self) -> Config:
        """Returns the resolved config of this run."""
        return load_config(str(self.path / CONFIG))

    def write_config(self, config: Config) -> None:
        self.write_text(CONFIG, to_toml(config))

    @property
    def checkpoints(self) -> Path:
        return (self.path / "checkpoints").absolute()

    @contextmanager
    def lock(self, *, wait: bool = False):
        """Excludes all other processes while the block runs. The system drops the lock if this process dies.

        If another process holds the lock, this raises `UserError`, or waits with `wait`.
        """
        if not self.writes:
            yield
            return
        try:
            file = open(self.path / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"cannot write to run folder {self.path}: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise UserError(f"{self.path} is in use by another process; wait for it or choose another folder") from None
            yield

    def write_text(self, name: str, text: str) -> None:
        if self.writes:
            write_atomic(self.path / name, lambda file: file.write(text.encode()))

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def append(self, name: str, text: str) -> None:
        if self.writes:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(text)

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file of this run, or None where it is missing."""
        path = self.path / name
        try:
            return json.loads(path.read_text()) if path.is_file() else None
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is damaged ({error}); restore it or delete it") from None


def describe_run(command: list[str], parallel: str) -> dict[str, Any]:
    """Returns what `run.json` records of each command that trained the run: versions, devices, commit, command."""
    return {
        "command": command,
        "commit": _commit(),
        "parallel": parallel,
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {"gpicl_jax": __version__, **{name: metadata.version(name) for name in PACKAGES}},
    }


def _commit() -> str | None:
    """Returns the commit of the source tree, with `-dirty` if it was changed, or None for an installed package."""
    here = Path(__file__).parent
    run = lambda *args: subprocess.run(["git", "-C", here, *args], capture_output=True, text=True)  # noqa: E731
    try:
        if run("ls-files", "--error-unmatch", __file__).returncode:
            return None
        return run("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").stdout.strip() or None
    except OSError:
        return None
