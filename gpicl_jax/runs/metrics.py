"""metrics.jsonl: one JSON object a line, the truth about the course of a run."""

import json
from pathlib import Path
from typing import Any

from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.settings import UserError

NAME = "metrics.jsonl"


class MetricsLog:
    """Appends records to a run's metrics; each has a `step`.

    On resume, records after `step` are dropped, and all of them where the run begins anew (0): the run makes them again.
    What `make_tracker` returned is told of each new record too.

    Attributes:
      validation_losses: of the records that are kept.
      seconds: of training, of the last of them.
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
    """All whole records of a run, in order. A last line that a killed process left half-written is passed over."""
    path = run_dir / NAME
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or delete it to go on without its history") from None
