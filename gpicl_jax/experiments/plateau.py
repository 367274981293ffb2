"""`gpicl experiment plateau`. A condition changes one thing of the first. All have the same cap on steps.

`the paper's model` has none of our changes.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.comparison_rows import RECALL_FIRST
from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, ends, markdown, mean_and_deviation
from gpicl_jax.experiments.engine.survival import kaplan_meier_median, steps_to_leave
from gpicl_jax.figures.style import COLORS, THIN, finished
from gpicl_jax.registry import register
from gpicl_jax.training.step import num_params

_PAPERS_MODEL = ("--model.label_scale=1", "--model.head_size=32", "--optimizer.learning_rate=1e-3")
_MUON = ("--optimizer.name=muon", "--optimizer.learning_rate=2e-2")
# Kind of remedy, condition: what it changes.
CONDITIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("paper", "none"): (),
    ("paper", "the paper's model"): _PAPERS_MODEL,
    ("paper", "batch × 2"): ("--tasks.tasks_per_step=64",),
    ("paper", "small eps"): ("--optimizer.eps=1e-10", "--optimizer.eps_root=0.0"),
    ("paper", "sign"): ("--optimizer.name=sign", "--optimizer.learning_rate=1e-3"),
    ("paper", "90% keep labels"): ("--tasks.permute_labels_prob=0.1",),
    ("paper", "90% keep labels, annealed"): ("--tasks.permute_labels_prob=0.1", "--tasks.permute_labels_anneal=400"),
    ("other", "warm-up, cosine"): ("--optimizer.warmup_steps=100", "--optimizer.schedule=cosine"),
    ("other", "Muon"): _MUON,
    ("other", "2^10 tasks"): ("--tasks.num_tasks=1024",),
    ("architecture", "RoPE"): ("--model.positions=rope",),
    ("architecture", "ALiBi"): ("--model.positions=alibi",),
    ("architecture", "smeared keys"): ("--model.smear_keys=true",),
    ("architecture", "paired"): ("--model.layout=paired",),
    ("architecture", "context and queries"): ("--model.name=context_query",),
    ("architecture", "equivariant"): (
        *("--model.name=equivariant_transformer", "--model.width=16", "--model.num_heads=4", "--model.head_size=4"),
    ),
    ("curriculum", "recall first"): RECALL_FIRST,
    ("curriculum", "the paper's model, recall first"): (*_PAPERS_MODEL, *RECALL_FIRST),
    ("curriculum", "fewer classes alone"): RECALL_FIRST[:1],
    ("curriculum", "fewer images alone"): RECALL_FIRST[1:],
    ("curriculum", "rising at 0.3"): (*RECALL_FIRST, "--tasks.rise_at=0.3"),
    ("curriculum", "rising at 0.7"): (*RECALL_FIRST, "--tasks.rise_at=0.7"),
    ("curriculum", "recall first, Muon"): (*RECALL_FIRST, *_MUON),
}
_ALL = tuple(CONDITIONS)
_PUBLISHED = tuple(key for key in _ALL if key[0] != "curriculum" and key[1] != "equivariant")
_PAPER = tuple(key for key in _PUBLISHED if key[1] != "the paper's model")  # which is what `none` is there
_THREE = (("paper", "none"), ("paper", "90% keep labels"), ("architecture", "paired"))
_SMOKE = (*SMOKE, "--train.validate_every=20", "--eval.episodes=64")
_KINDS = {
    "paper": "the paper's remedies",
    "other": "optimiser, tasks, labels",
    "architecture": "architecture",
    "curriculum": "curriculum",
}


@register("plateau")
class Plateau(Experiment):
    """Steps to leave the loss plateau: the paper's remedies, the architecture's, and a curriculum."""

    conditions: tuple[tuple[str, str], ...] = _PUBLISHED

    axes = ("kind", "condition", "seed")
    validation_permute = 1.0
    counts_diverged = True  # as runs that never left
    scales = {
        "smoke": dict(seeds=2, together=4, conditions=_THREE, overrides=_SMOKE),
        "laptop": dict(seeds=6, together=24),
        "long": dict(seeds=6, together=6, conditions=_ALL, overrides=("--train.steps=4000",)),
        "paper": dict(seeds=8, together=8, configs="paper", conditions=_PAPER),
    }

    def table(self) -> Grid:
        return {key: (f"experiments/{self.configs}/plateau", *CONDITIONS[key]) for key in self.conditions}

    def score(self, trained: Member) -> list[Row]:
        """Returns the step at which it left the plateau (empty: never), and scores at the end on unseen, permuted tasks."""
        config = trained.config
        left = steps_to_leave(trained.records, config.tasks.classes_per_task)
        scores = trained.unseen(config.data.train[0], permute_labels_prob=1.0)
        return [{"left_plateau": left, "num_params": num_params(trained.params), **ends(scores, tasks="unseen")}]

    def summary(self, frame: pd.DataFrame) -> str:
        rows = []
        for row in summarise(frame).itertuples():
            median, low, high = (f"{value:.0f}" if np.isfinite(value) else f"> {row.cap}" for value in row[3:6])
            steps = f"{median} ({low} – {high})" if low != high else f"{median} ({low})"
            costs = (f"{row.num_params:,.0f}", f"{row.ms_per_step:.1f}")
            rows.append([row.condition, f"{row.left} of {row.runs}", steps, row.accuracy, *costs])
        names = ["condition", "left", "median steps (95% interval)", "accuracy, last tenth", "parameters", "ms a step"]
        return markdown(names, rows)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws every run's steps to leave the plateau, with median and interval, and beside it the accuracy at the end."""
        summary = summarise(frame).iloc[::-1].reset_index(drop=True)
        cap = float(summary.cap.max())
        figure = Figure(figsize=(9.5, 0.32 * len(summary) + 1.5))
        steps, accuracy = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for height, row in summary.iterrows():
            color = COLORS[list(_KINDS).index(row.kind)]
            runs = frame[(frame.kind == row.kind) & (frame.condition == row.condition)]
            left = runs.left_plateau.dropna()
            shift = np.linspace(-0.2, 0.2, len(runs))
            steps.plot(left, height + shift[: len(left)], "o", color=color, markersize=3.5, alpha=0.6)
            stayed = height + shift[len(left) :]
            steps.plot([cap] * len(stayed), stayed, ">", color=color, markersize=4, fillstyle="none")
            steps.plot(np.minimum([row.low, row.high], cap), [height] * 2, "-", color=color, linewidth=1)
            if np.isfinite(row["median"]):
                steps.plot(row["median"], height, "|", color="black", markersize=12, markeredgewidth=1.8)
            style = {"color": color, "markersize": 3.5, "alpha": 0.6, "label": _KINDS[row.kind]}
            accuracy.plot(runs["last"], height + shift, "o", **style)
        steps.set_yticks(range(len(summary)), summary.condition)
        steps.axvline(cap, **THIN)
        steps.set(xlabel="steps to leave the plateau (▷: not before the cap)", xlim=(0, 1.05 * cap))
        steps.set_title(f"{self.scale}: runs, median, 95% interval")
        accuracy.set(xlabel="accuracy, last tenth, unseen tasks", title="at the cap", xlim=(0, None))
        return finished(figure, 4)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each condition: `median`, `low` and `high` of the steps (infinite: beyond the `cap`), `left` of `runs`,
    `accuracy` over the last tenth (a mean over seeds), `num_params`, and milliseconds of a step.
    """
    groups = frame.assign(ms_per_step=1000 * frame.seconds / frame.steps).groupby(["kind", "condition"], sort=False)
    table = groups.agg(
        left=("left_plateau", "count"),
        runs=("left_plateau", "size"),
        cap=("steps", "max"),
        accuracy=("last", lambda values: mean_and_deviation(values.dropna())),
        num_params=("num_params", "max"),
        ms_per_step=("ms_per_step", "mean"),
    )
    medians = [kaplan_meier_median(steps) for _, steps in groups.left_plateau]
    return pd.DataFrame(medians, table.index).join(table).reset_index()
