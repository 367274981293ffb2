"""The output while training runs: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from gpicl_jax.tasks import Episode

_SECONDS_BETWEEN_LINES = 10.0
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class Progress:
    """The display of records of `metrics.jsonl`: a bar with `bar` on a terminal, else plain lines."""

    def __init__(self, steps: int, start: int, bar: bool) -> None:
        self._steps, self._shown = steps, 0.0
        self._bar = tqdm(total=steps, initial=start, bar_format=_BAR) if bar and has_bar() else None

    def training(self, record: dict[str, Any], speed: float) -> None:
        """Shows the record of a chunk. `speed` is in steps/s."""
        step = record["step"]
        text = f"{_losses(record, speed)}, {(self._steps - step) / speed:.0f} s left"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._shown > _SECONDS_BETWEEN_LINES or step == self._steps:
            self._shown = time.monotonic()
            self.say(f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}")

    def validation(self, step: int, record: dict[str, Any]) -> None:
        first, last = (_accuracy(record[name]) for name in ("validation_first", "validation_last"))
        self.say(f"step {step}: validation loss {record['validation_loss']:.3f}, accuracy {first} → {last}")

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def has_bar() -> bool:
    """Returns whether stderr is a terminal of known width."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def counted(parts: Iterable[tuple[Episode, jax.Array]], title: str, total: int) -> Iterator[tuple[Episode, jax.Array]]:
    """Yields parts of `total` episodes, with a bar if the terminal can show one, else after a line on stderr."""
    if not has_bar():
        print(f"testing on {title} {total:,} episodes …", file=sys.stderr, flush=True)
    with tqdm(desc=title, total=total, leave=False, disable=not has_bar(), bar_format=f"{{desc}} {_BAR}") as bar:
        for episodes, keys in parts:
            yield episodes, keys
            bar.update(episodes.num_context.size)


def _losses(record: dict[str, Any], speed: float) -> str:
    loss = record["loss"]
    if not isinstance(loss, list):
        first, last = (_accuracy(record[name]) for name in ("accuracy_first", "accuracy_last"))
        rung = f", {record['active_classes']} classes × {record['images_per_class']}" if "active_classes" in record else ""
        return f"loss {loss:.3f}, accuracy {first} → {last}{rung}, {speed:.1f} steps/s"
    finite = [each for each in loss if each is not None]
    losses = f"loss {min(finite):.3f} to {max(finite):.3f}" if finite else "all diverged"
    return f"{losses}, {len(loss) * speed:.1f} member-steps/s"


def _accuracy(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2f}"
