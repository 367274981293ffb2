"""What a person asked `gpicl bench` for."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from gpicl_jax.settings import UserError


class Asked(NamedTuple):
    """Attributes:

    pytorch: whether our plain PyTorch version is timed too.
    pytorch_repo: folder of the public PyTorch project, whose own task generator is timed too.
    repeats: rounds that count.
    """

    pytorch: bool = False
    pytorch_repo: Path | None = None
    repeats: int = 7

    @property
    def torch(self) -> bool:
        """Whether PyTorch is needed."""
        return self.pytorch or self.pytorch_repo is not None

    def check(self) -> None:
        """Raises `UserError` where nothing can be measured."""
        if self.repeats < 2:
            raise UserError(f"--repeats {self.repeats}; expected 2 or more, for a spread")
        if self.torch and importlib.util.find_spec("torch") is None:
            option = "--pytorch" if self.pytorch else "--pytorch-repo"
            raise UserError(f"{option} needs PyTorch; install it with: pip install torch")
