"""A trace of a few steps, for TensorBoard or Perfetto."""

import re
from pathlib import Path

import jax

from gpicl_jax.settings import UserError
from gpicl_jax.training.step import TrainState


def profile_range(text: str, steps: int) -> range:
    """Returns the steps A … B − 1 that `A:B` names.

    Raises:
      UserError: it names no step, or steps beyond the run's `steps`.

    Example:
      >>> profile_range("100:300", steps=800)
      range(100, 300)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, end = map(int, match.groups()) if match else (0, 0)
    if not first < end <= steps:
        raise UserError(f"--profile-steps {text}; expected A:B with 0 ≤ A < B ≤ train.steps = {steps}, e.g. 100:200")
    return range(first, end)


class Profile:
    """A trace into `folder` of the chunks that hold any of `steps`, on this process's devices."""

    def __init__(self, steps: range, folder: Path) -> None:
        self._steps, self._folder, self._running = steps, folder, False

    def before(self, chunk: range, state: TrainState) -> None:
        """Starts the trace where the first of the steps is in `chunk`, after all earlier work."""
        if not self._running and max(chunk.start, self._steps.start) < min(chunk.stop, self._steps.stop):
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call would drown the few that matter
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def after(self, chunk: range, state: TrainState) -> None:
        """Ends the trace where none of the steps is left."""
        if self._running and chunk.stop >= self._steps.stop:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
