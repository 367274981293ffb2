"""SIGTERM and Ctrl-C as requests: the loop stops between two chunks and saves. A second Ctrl-C stops at once."""

import contextlib
import signal
from types import FrameType

import jax
import numpy as np

from gpicl_jax.training.parallel import largest


class Interrupted(Exception):
    """A signal stopped training, after a checkpoint at `step`. The exit code is 128 + signal, as is usual."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.exit_code = 128 + signum


class StopRequest(contextlib.AbstractContextManager):
    """While the block runs, `signum` is the signal that asked this process to stop, or None.

    Several processes must stop after the same chunk, whichever of them got the signal. Each calls `ask` before it dispatches a
    chunk. `answer` later says what signal any of them had got by then.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._asked: jax.Array | None = None
        self._before = {signum: signal.signal(signum, self._request) for signum in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def ask(self) -> None:
        """Sends this process's signal to all processes, without waiting for them."""
        if jax.process_count() > 1:
            self._asked = largest(np.int32(self.signum or 0))

    def answer(self) -> int | None:
        """Returns the signal that asked any process to stop, the same in all of them."""
        return self.signum if self._asked is None else int(self._asked) or None

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            signal.default_int_handler(signum, frame)
        self.signum = signum
