"""The trials of the comparison: what each learner tries on validation tasks, and which of it is best."""

from typing import Any

from gpicl_jax.experiments.comparison_rows import tries
from gpicl_jax.experiments.engine import Cell, Experiment, Member, Row
from gpicl_jax.experiments.engine.run import Asked
from gpicl_jax.experiments.engine.timing import seconds_per_step, steps_within, with_steps
from gpicl_jax.sections import Config

_SEED = 1000  # far from those of the cells


class Trials(Experiment):
    """The settings that each learner of a comparison tries on validation tasks."""

    of: Any = None

    axes = ("learner", "size", "channels", "overrides", "budget_seconds", "seed")

    def cells(self) -> list[Cell]:
        found = []
        for (row, size, channels, seconds), settings in self.of.table().items():
            for trial in tries(row, self.of.beside)[: self.of.trials]:
                axes = {"learner": row, "size": size, "channels": channels, "overrides": trial}
                axes |= {"budget_seconds": seconds / 4, "seed": _SEED}
                found.append(self.of.cell(axes, *settings, trial))
        return found

    def begin(self, cell: Cell, notes: dict[str, Any], asked: Asked) -> tuple[Config, dict[str, Any]]:
        if not notes:
            per_step = seconds_per_step(cell.config)
            notes = {"seconds_per_step": per_step}
            notes["steps"] = steps_within(cell.axes["budget_seconds"], per_step, cell.config.train.chunk)
        return with_steps(cell.config, notes["steps"]), notes

    def score(self, trained: Member) -> list[Row]:
        """Returns accuracy over the last tenth of validation tasks and images, None where predictions are not finite."""
        scores = trained.validation()
        last, error = scores.last() if scores.finite else (None, None)
        loss = scores.loss if scores.finite else None
        costs = {"seconds_per_step": trained.notes["seconds_per_step"], "training_seconds": trained.processor_seconds}
        return [costs | {"validation_last": last, "validation_standard_error": error, "validation_loss": loss}]


def best_trial(rows: list[dict[str, str]], chance: float) -> tuple[dict[str, str] | None, bool]:
    """Returns the trial with the best accuracy over the last tenth of validation tasks, and whether it beats chance.

    If no trial is better than guessing by four standard errors, the first one (that of the config) is returned: on a plateau a
    choice would be noise.
    """
    scores = [(float(row["validation_last"]), row) for row in rows if row.get("validation_last")]
    learned = [(last, row) for last, row in scores if last > chance + 4 * float(row["validation_standard_error"])]
    if learned:
        return max(learned, key=lambda each: each[0])[1], True
    return (scores[0][1] if scores else None), False
