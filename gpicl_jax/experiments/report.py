"""The comparison's files: tidy CSVs, a table for the eye, a figure."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpicl_jax import figures
from gpicl_jax.files import write_atomic
from gpicl_jax.paper import paper_comparison

_PER_DATASET = ("first", "last", "last_row", "standard_error", "episodes")


def write_results(folder: Path, scale: str, cells: list[dict[str, Any]], trials: list[dict[str, Any]]) -> None:
    """Writes SCALE.csv (a row for each cell and dataset), SCALE_trials.csv, SCALE_table.csv, SCALE.md and SCALE.png."""
    if trials:
        rows = [{**trial, "overrides": " ".join(trial["overrides"])} for trial in trials]
        _write_csv(folder / f"{scale}_trials.csv", pd.DataFrame(rows))
    if not cells:
        return
    frame = tidy(cells)
    _write_csv(folder / f"{scale}.csv", frame)
    table = summarise(frame)
    _write_csv(folder / f"{scale}_table.csv", table)
    paper = paper_comparison()
    text = "\n".join(markdown(part, paper) for _, part in table.groupby(["size", "channels"], sort=False))
    write_atomic(folder / f"{scale}.md", lambda file: file.write(text.encode()))
    image = io.BytesIO()
    figures.comparison(table, paper).savefig(image, format="png")
    write_atomic(folder / f"{scale}.png", lambda file: file.write(image.getvalue()))


def tidy(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each cell and dataset, with the cell's costs."""
    rows = [
        {**{key: value for key, value in cell.items() if key != "datasets"}, "dataset": dataset}
        | {name: scores[name] for name in _PER_DATASET}
        for cell in cells
        for dataset, scores in cell["datasets"].items()
    ]
    return pd.DataFrame(rows)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and the half-width of its 95% interval (Student's t; NaN for one seed), by learner and dataset."""
    keys = ["learner", "size", "channels", "dataset"]
    grouped = frame.groupby(keys, sort=False)
    table = grouped["last"].agg(mean="mean", seeds="count", deviation=lambda values: values.std(ddof=1)).reset_index()
    table["interval"] = [
        stats.t.ppf(0.975, seeds - 1) * deviation / np.sqrt(seeds) if seeds > 1 else np.nan
        for seeds, deviation in zip(table.seeds, table.deviation, strict=True)
    ]
    table["last_row"] = grouped["last_row"].mean().to_numpy()
    costs = ["training_seconds", "wall_seconds", "train_episodes", "seconds_per_1000_episodes", "microseconds_per_episode"]
    for name in costs:
        table[name] = grouped[name].mean().to_numpy()
    for name in ("num_params", "state_size", "chosen"):
        table[name] = grouped[name].first().to_numpy()
    return table.drop(columns="deviation")


def markdown(table: pd.DataFrame, paper: pd.DataFrame) -> str:
    """Rows of learners, columns of datasets, and what each costs; other people's rows below."""
    datasets = list(dict.fromkeys(table.dataset))
    size, channels = table["size"].iloc[0], table["channels"].iloc[0]
    costs = ["parameters", "state", "trained on", "s per 1,000", "µs per episode"]
    caption = (
        f"Images of {size}×{size}×{channels}: accuracy in percent on unseen tasks and test images, mean of the last tenth "
        "of an episode, ± 95% interval over meta-training seeds (in brackets: how many); parameters, numbers carried from "
        "example to example, meta-training episodes, seconds for 1,000 of them, microseconds to predict an episode. Rows in "
        "italics are other people's, for the last example alone, on images of other sizes (gpicl_jax/reference)."
    )
    lines = [caption, "", _line(["", *datasets, *costs]), _line(["---"] * (1 + len(datasets) + len(costs)))]
    for learner, rows in table.groupby("learner", sort=False):
        cells = {row.dataset: _percent(row.mean, row.interval) for row in rows.itertuples()}
        one = rows.iloc[0]
        about = [f"{one.num_params:,}", f"{one.state_size:,}", f"{one.train_episodes:,.0f}"]
        about += [f"{one.seconds_per_1000_episodes:.3g}", f"{one.microseconds_per_episode:.0f}"]
        lines.append(_line([f"`{learner}` ({rows.seeds.min()})", *(cells.get(name, "–") for name in datasets), *about]))
    for (source, method), rows in paper.groupby(["source", "method"], sort=False):
        cells = dict(zip(rows.dataset, (_percent(each, np.nan) for each in rows.accuracy), strict=True))
        if set(cells) & set(datasets):
            lines.append(_line([f"*{source}: {method}*", *(cells.get(name, "–") for name in datasets), *[""] * len(costs)]))
    return "\n".join(lines) + "\n"


def _percent(mean: float, interval: float) -> str:
    return f"{100 * mean:.1f}" + ("" if np.isnan(interval) else f" ± {100 * interval:.1f}")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, lambda file: file.write(frame.to_csv(index=False, float_format="%.6g").encode()))
