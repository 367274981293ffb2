"""Trains rows of the comparison with forms of the curriculum, one seed each, until they have left the plateau, or 240 s.

    python results/comparison/tried.py           # what tried.csv lacks

`tried.csv` is what led to `gpicl_jax/experiments/comparison_rows.py`. It is of validation tasks alone.
"""

import math
import time
from pathlib import Path

import pandas as pd

from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine.survival import BELOW_CHANCE
from gpicl_jax.training.trainer import Trainer

CSV = Path(__file__).parent / "tried.csv"
SECONDS, BETWEEN, ENOUGH = 240, 20, 3  # processor seconds, also between validations; validations below chance
RECALL = "--tasks.active_classes=2 --tasks.images_per_class=1"
IMAGES = "--tasks.images_per_class=1"
MUON, PAIRED, FEW = "--optimizer.name=muon --optimizer.learning_rate=2e-2", "--model.layout=paired", "--tasks.tasks_per_step=8"
ADAM = "--optimizer.name=adam --optimizer.learning_rate=1e-3 --optimizer.b2=0.99"
TRIED = {
    "transformer_paper": (
        *(RECALL, f"{RECALL} --tasks.length=50", f"{RECALL} --model.label_scale=3.1623", f"{RECALL} {MUON}", f"{RECALL} {FEW}"),
        *("--tasks.active_classes=2 --model.label_scale=3.1623", f"{IMAGES} --model.label_scale=3.1623"),
    ),
    "transformer": (RECALL, IMAGES),
    "context_query": (IMAGES,),
    "outer_product_lstm": (*(f"{RECALL} {PAIRED}", f"{RECALL} {PAIRED} {MUON}", f"{RECALL} {PAIRED} {MUON} {FEW}"),),
    "fast_weights": (*(f"{RECALL} {PAIRED} --model.bounded=true", f"{RECALL} {PAIRED} --model.bounded=true {MUON}"),),
    "lstm": (
        *(f"{RECALL} {PAIRED}", f"{RECALL} {PAIRED} {MUON}", f"{RECALL} {PAIRED} {MUON} {FEW}"),
        f"{RECALL} {PAIRED} --optimizer.name=muon --optimizer.learning_rate=1e-2 --tasks.rise_at=0.3",
    ),
    "encoder_decoder": (*(RECALL, f"{RECALL} {ADAM}", f"{RECALL} {ADAM} {FEW}"),),
    "vsml": (*(RECALL, f"{RECALL} {PAIRED}", f"{RECALL} {PAIRED} {MUON}", f"{IMAGES} {PAIRED}", PAIRED),),
    "vsml_without_symmetries": (*(f"{RECALL} {PAIRED}", f"{RECALL} {PAIRED} {MUON} {FEW} --model.grid_size=4"),),
}


def main() -> None:
    done = set(map(tuple, pd.read_csv(CSV)[["row", "tried"]].to_numpy())) if CSV.is_file() else set()
    for row, settings in ((row, settings) for row, each in TRIED.items() for settings in each):
        if (row, settings) not in done:
            frame = pd.DataFrame([{"row": row, "tried": settings, **tried(row, settings)}])
            frame.to_csv(CSV, mode="a", header=not CSV.is_file(), index=False, float_format="%.4g")
            print(frame.to_string(index=False, header=False), flush=True)


def tried(row: str, settings: str) -> dict[str, float | str | None]:
    """Returns when a run left the plateau (None: not), where it ended, and its rungs, each with its first second."""
    constant = ("--optimizer.schedule=constant", "--train.steps=1000000", "--train.validate_every=1000")
    trainer = Trainer(load_config(f"comparison/laptop/{row}", (*settings.split(), *constant)))
    state, metrics = trainer.chunk(trainer.state())  # compiles
    trainer.validate(state)
    state, begun, seconds, steps, below, left, rungs = trainer.state(), time.process_time(), 0.0, 0, 0, (None, None), []
    tasks = trainer.config.tasks
    due = BETWEEN
    while seconds < SECONDS and below < ENOUGH:
        state, metrics = trainer.chunk(state)
        record, steps = trainer.record(metrics), steps + trainer.config.train.chunk
        seconds = time.process_time() - begun
        rung = f"{record['active_classes']}×{record['images_per_class']}" if tasks.curriculum else ""
        if rung and (not rungs or not rungs[-1].startswith(f"{rung}@")):
            rungs.append(f"{rung}@{seconds:.0f}")
        if seconds >= due:
            due += BETWEEN
            _, loss = trainer.validate(state)
            begun += time.process_time() - begun - seconds  # a validation takes none of the time
            below = below + 1 if loss < BELOW_CHANCE * math.log(10) else 0
            left = (seconds, steps * tasks.tasks_per_step) if below == 1 else left if below else (None, None)
    record, loss = trainer.validate(state)
    ends = {"seconds": seconds, "steps": steps, "validation_loss": loss, "validation_last": record["validation_last"]}
    return {"left_seconds": left[0], "left_episodes": left[1], **ends, "rungs": " ".join(rungs)}


if __name__ == "__main__":
    main()
