"""`gpicl experiment tasks`: what a task is, in one figure; nothing is trained."""

import io
from typing import Any

import jax
import numpy as np
import pandas as pd

from gpicl_jax import figures
from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.experiments.run import Asked
from gpicl_jax.files import write_atomic
from gpicl_jax.hyper import hyper_from
from gpicl_jax.models.layers import shifted_tokens
from gpicl_jax.settings import UserError, nearest
from gpicl_jax.tasks.augmented import draw_sequence, draw_task, seen_task_keys

# Scale: base dataset, height and width.
SCALES = {"smoke": ("digits", 8), "laptop": ("mnist", 8), "paper": ("mnist", 14)}
_TASKS, _EXAMPLES = 4, 8


def run_tasks(asked: Asked) -> int:
    """Writes SCALE.csv (statistics of A, a row for each task) and SCALE.png.

    Raises:
      UserError: an unknown scale, options of a grid, a dataset or folder that cannot be used.
    """
    if asked.scale not in SCALES:
        raise UserError(f"no scale '{asked.scale}' of experiment tasks{nearest(asked.scale, SCALES)}")
    if asked.seeds or asked.part != (1, 1) or asked.datasets:
        raise UserError("experiment tasks trains nothing; leave out --seeds, --part and --datasets")
    found = draw_tasks(*SCALES[asked.scale], asked.data_dir)
    try:
        asked.results_dir.mkdir(parents=True, exist_ok=True)
        text = found["statistics"].to_csv(index=False, float_format="%.4g")
        write_atomic(asked.results_dir / f"{asked.scale}.csv", lambda file: file.write(text.encode()))
        image = io.BytesIO()
        figures.tasks(found).savefig(image, format="png")
        write_atomic(asked.results_dir / f"{asked.scale}.png", lambda file: file.write(image.getvalue()))
    except OSError as error:
        raise UserError(f"cannot write to {asked.results_dir}: {error.strerror}; choose another --results-dir") from None
    print(text, end="")
    print(f"figure: {asked.results_dir / f'{asked.scale}.png'}")
    return 0


def draw_tasks(dataset: str, size: int, data_dir: str = "") -> dict[str, Any]:
    """The first tasks of a training set, and one sequence: what `figures.tasks` draws.

    Returns:
      `image_X` and `projected_TX` (one image, standardised, and under each task's A); `permutation_TC`; of the first task's
      sequence `before_L` and `after_L`, its labels, and `tokens_LT`; `entries`, those of √X·A of all tasks, flat;
      `singular`, all singular values; `statistics`, a row for each task.
    """
    overrides = (f"--data.train={dataset}", f"--data.size={size}", f"--data.dir={data_dir}", f"--tasks.length={_EXAMPLES}")
    config = load_config("digits_transformer", overrides)
    tasks, num_features = make_tasks(config, "train"), size**2
    keys_T = seen_task_keys(hyper_from(config), np.arange(_TASKS))
    drawn = [draw_task(tasks, key) for key in keys_T]
    sequence_key = jax.random.key(0)
    episodes = [draw_sequence(tasks, task, sequence_key) for task in drawn]
    examples = tasks.source.draw(drawn[0].source_key, sequence_key, tasks.drawing)
    matrices = [np.asarray(task.projection.entries_XX, np.float64) * float(task.projection.scale) for task in drawn]
    scaled = [np.sqrt(num_features) * matrix for matrix in matrices]
    singular = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
    rows = [
        {
            "task": number,
            "X": num_features,
            "mean": entries.mean(),
            "X_variance": entries.var(),
            "excess_kurtosis": (((entries - entries.mean()) / entries.std()) ** 4).mean() - 3,
            "largest_singular_value": values.max(),
            "smallest_singular_value": values.min(),
            "permutation": " ".join(map(str, np.asarray(task.permutation_C))),
        }
        for number, (entries, values, task) in enumerate(zip(scaled, singular, drawn, strict=True))
    ]
    return {
        "name": f"{dataset}, {size}×{size}",
        "image_X": (np.asarray(examples.pixels_LX[0], float) - float(examples.mean)) / float(examples.std),
        "projected_TX": np.stack([episode.x_LX[0] for episode in episodes]),
        "permutation_TC": np.stack([task.permutation_C for task in drawn]),
        "before_L": np.asarray(examples.labels_L),
        "after_L": np.asarray(episodes[0].y_L),
        "tokens_LT": np.asarray(shifted_tokens(episodes[0].x_LX, episodes[0].y_L, 10)),
        "entries": np.concatenate([entries.ravel() for entries in scaled]),
        "singular": np.concatenate(singular),
        "statistics": pd.DataFrame(rows),
    }
