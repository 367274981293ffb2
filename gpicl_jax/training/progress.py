"""What a person sees while training runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

from gpicl_jax.processes import is_writer

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows records of `metrics.jsonl` as they come."""

    def __init__(self, steps: int, start: int) -> None:
        self._steps, self._start = steps, start
        self._bar = tqdm(total=steps, initial=start, unit="step") if sys.stderr.isatty() and is_writer() else None
        self._shown = 0.0

    def training(self, record: dict[str, Any]) -> None:
        step, speed = record["step"], record["steps_per_second"]
        first, last = (_accuracy(record[name]) for name in ("accuracy_first", "accuracy_last"))
        text = f"loss {record['loss']:.3f}, accuracy {first} → {last}"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._shown > _SECONDS_BETWEEN_LINES or step == self._steps:
            self._shown = time.monotonic()
            left = (self._steps - step) / speed if speed else 0.0
            self.say(f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}, {speed:.1f} steps/s, {left:.0f} s left")

    def validation(self, record: dict[str, Any]) -> None:
        first, last = (_accuracy(record[name]) for name in ("validation_first", "validation_last"))
        self.say(f"step {record['step']}: validation loss {record['validation_loss']:.3f}, accuracy {first} → {last}")

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _accuracy(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2f}"
