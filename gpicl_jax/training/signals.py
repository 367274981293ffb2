"""SIGTERM and Ctrl-C as requests: the loop stops between two chunks and saves; a second Ctrl-C stops at once."""

import signal
from types import FrameType


class Interrupted(Exception):
    """Training stopped on a signal, after a checkpoint at `step`; the conventional exit code is 128 + signal."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.exit_code = 128 + signum


class StopRequest:
    """While the block runs, `signum` is the signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._before[signum] = signal.signal(signum, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            signal.default_int_handler(signum, frame)
        self.signum = signum
