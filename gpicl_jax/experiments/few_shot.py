"""`gpicl experiment few-shot`."""

import dataclasses

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine import Experiment, Grid, Member, Row, half_width, markdown
from gpicl_jax.figures.style import COLORS, MARKERS, finished
from gpicl_jax.learners.maml import Maml
from gpicl_jax.registry import register
from gpicl_jax.training.step import num_params

# What each learner changes of the problem's own config.
LEARNERS: dict[str, tuple[str, ...]] = {
    "maml": (),
    "first-order maml": ("--learner.first_order=true",),
    "learned rates": ("--learner.learn_rates=true",),
    "anil": ("--learner.head_only=true",),
    "context_query": (),
}
_TEST_STEPS = (1, 3, 5, 10)  # inner steps at test time
PAPER_STEPS = {5: 3, 20: 5}  # by N
_PROBLEMS = ("5way_1shot", "5way_5shot", "20way_1shot", "20way_5shot")
# Finn et al. 2017, table 1; first order: Nichol et al. 2018, arXiv 1803.02999, table 2 (with transduction). Percent.
PAPER = {
    "maml": dict(zip(_PROBLEMS, (98.7, 99.9, 95.8, 98.9), strict=True)),
    "first-order maml": dict(zip(_PROBLEMS, (98.3, 99.2, 89.4, 97.9), strict=True)),
}
_SMOKE = ("--train.steps=20", "--train.chunk=10", "--train.validate_every=20", "--model.width=8", "--eval.episodes=64")
# Fewer meta-training steps than the paper's, with a cosine schedule, in parts that two cores take well.
_FEWER_STEPS = (("5way_1shot", ("--train.steps=16000",)), ("5way_5shot", ("--train.steps=2000",)))
_LAPTOP = ("--optimizer.schedule=cosine", "--train.accumulate=4")


@register("few-shot")
class FewShot(Experiment):
    """N-way K-shot problems on Omniglot: MAML and its kin, and learning in context.

    Attributes:
      problems: names of configs in `configs/omniglot`, each with the settings that replace its own.
      entrants: names in `LEARNERS`.
    """

    problems: tuple[tuple[str, tuple[str, ...]], ...] = tuple((name, ()) for name in _PROBLEMS)
    entrants: tuple[str, ...] = tuple(LEARNERS)

    axes = ("learner", "problem", "seed")
    scales = {
        "smoke": dict(problems=(("5way_1shot", _SMOKE),), entrants=("maml", "context_query")),
        "laptop": dict(problems=_FEWER_STEPS, overrides=_LAPTOP),
        "paper": dict(seeds=3, together=3),
    }

    def table(self) -> Grid:
        return {
            (learner, problem): (*_config(learner, problem), *settings)
            for problem, settings in self.problems
            for learner in self.entrants
        }

    def score(self, trained: Member) -> list[Row]:
        """Returns accuracy over all test queries by the number of inner steps (`trained_steps`: that of meta-training)."""
        about, learner = {"tasks": "test", "num_params": num_params(trained.params)}, trained.learner
        if not isinstance(learner, Maml):
            return [about | {"inner_steps": None} | _found(trained)]
        rows = []
        for steps in sorted({learner.inner_steps, *_TEST_STEPS}):
            other = dataclasses.replace(trained, learner=dataclasses.replace(learner, inner_steps=steps))
            rows.append(about | {"inner_steps": steps, "trained_steps": learner.inner_steps} | _found(other))
        return rows

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns two tables: at the paper's number of inner steps, and at each number."""
        rows = []
        for row in headline(frame).itertuples():
            told = "diverges" if pd.isna(row.last) else f"{100 * row.last:.1f} ± {100 * row.interval:.1f}"
            paper = PAPER.get(row.learner, {}).get(row.problem, "–")
            problems = f"{row.seeds} × {row.episodes // row.seeds:,}"
            rows.append([row.learner, row.problem, told, paper, f"{row.meta_steps:,}", problems])
        names = ["learner", "problem", "test accuracy, 95%", "paper", "meta-steps", "seeds × problems"]
        lines, with_steps = [markdown(names, rows)], frame.dropna(subset=["inner_steps"])
        if len(with_steps):
            lines += ["", "Accuracy at each number of inner steps at test time, mean over seeds:"]
        for (learner, problem), part in with_steps.groupby(["learner", "problem"], sort=False):
            told = []
            for steps, each in part.groupby("inner_steps", sort=False)["last"]:
                value = each.mean(skipna=False)
                told.append(f"{steps:.0f}: {'the inner loop diverges' if pd.isna(value) else f'{100 * value:.1f}'}")
            lines.append(f"- {learner}, {problem}: {', '.join(told)}")
        return "\n".join(lines)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a mark with its 95% interval for each learner, problem by problem. Crosses are published values."""
        frame = headline(frame)
        problems, learners = list(frame.problem.unique()), list(frame.learner.unique())
        figure = Figure(figsize=(2.5 + 1.6 * len(problems), 3.6))
        axes = figure.subplots()
        for number, learner in enumerate(learners):
            rows = frame[frame.learner == learner]
            style = {"color": COLORS[number], "marker": MARKERS[number], "label": learner.replace("_", " ")}
            places = [problems.index(problem) + 0.14 * (number - (len(learners) - 1) / 2) for problem in rows.problem]
            axes.errorbar(places, 100 * rows["last"], yerr=100 * rows.interval, linestyle="none", capsize=2, **style)
            published = [PAPER.get(learner, {}).get(problem, float("nan")) for problem in rows.problem]
            axes.plot(places, published, "x", color="red", label="published" if number == 0 else None)
        names = [problem.replace("way_", "-way ").replace("shot", "-shot") for problem in problems]
        axes.set_xticks(range(len(problems)), names)
        axes.set(xlim=(-0.5, len(problems) - 0.5), ylabel="accuracy on test problems, %")
        axes.set_title(f"{self.scale}: Omniglot, characters never seen")
        return finished(figure, 3)


def _config(learner: str, problem: str) -> tuple[str, ...]:
    """Returns the name of a config, and the settings that replace its own."""
    if learner != "context_query":
        return f"omniglot/{problem}", *LEARNERS[learner]
    tasks = load_config(f"omniglot/{problem}").tasks
    shape = (f"--tasks.{name}={getattr(tasks, name)}" for name in ("classes_per_task", "num_context", "length"))
    return "omniglot/context_query", *shape


def _found(trained: Member) -> Row:
    scores = trained.unseen(trained.config.data.train[0])
    accuracy, error = scores.last() if scores.finite else (None, None)  # the inner loop diverged
    return {"last": accuracy, "last_standard_error": error, "episodes": scores.episodes}


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each learner and problem: `last` with its half-width `interval` of 95%, over `seeds` seeds.

    The number of inner steps at test time is the paper's, 3 at 5-way and 5 at 20-way. `last` is NaN where the inner loop of a
    seed diverged in any problem.
    """
    steps = frame.problem.map(lambda problem: PAPER_STEPS[int(problem.split("way")[0])])
    groups = frame[frame.inner_steps.isna() | (frame.inner_steps == steps)].groupby(["learner", "problem"], sort=False)
    table = groups.agg(
        seeds=("seed", "size"),
        meta_steps=("steps", "max"),
        episodes=("episodes", "sum"),
        last=("last", lambda values: values.mean(skipna=False)),
    )
    table["interval"] = [half_width(rows["last"], rows.last_standard_error) for _, rows in groups]
    return table.reset_index()
