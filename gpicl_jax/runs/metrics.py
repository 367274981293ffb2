"""metrics.jsonl: one JSON object a line, the record of a run's course."""

import json
from pathlib import Path
from typing import Any

from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.settings import UserError

NAME = "metrics.jsonl"


class MetricsLog:
    """A writer of a run's metrics. Each record has a `step`.

    On resume it drops the records after `step`, and all records where the run starts at step 0. The run makes them again. The
    tracker that `make_tracker` returned gets each new record too.

    Attributes:
      validation_losses: those of the kept records.
      seconds: training time at the last of them.
    """

    def __init__(self, folder: RunFolder, *, step: int = 0, tracker: Any = None) -> None:
        kept = [record for record in read_metrics(folder.path) if record["step"] <= step and step]
        folder.write_text(NAME, "".join(json.dumps(record) + "\n" for record in kept))
        self._folder, self._tracker = folder, tracker
        self.validation_losses = [record["validation_loss"] for record in kept if "validation_loss" in record]
        self.seconds = max((record.get("seconds", 0.0) for record in kept), default=0.0)

    def append(self, record: dict[str, Any]) -> None:
        self._folder.append(NAME, json.dumps(record) + "\n")
        if self._tracker:
            numbers = {name: value for name, value in record.items() if name != "step" and value is not None}
            self._tracker.log(numbers, step=record["step"])

    def close(self) -> None:
        if self._tracker:
            self._tracker.finish()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns all whole records of a run, in order. A half-written last line of a killed process is skipped."""
    path = run_dir / NAME
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or delete it to go on without its history") from None
