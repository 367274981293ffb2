"""`gpicl bench inference`: the time of one predicted episode, alone and in a batch."""

import jax
import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Side, by_turns, compile_apart
from gpicl_jax.bench.program import draw_batch, flat_batch, random_images, random_tasks, with_tasks
from gpicl_jax.bench.rows import Row, number, timing_rows
from gpicl_jax.build import make_learner
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode


def measure(config: Config, asked: Asked) -> list[Row]:
    """Microseconds per episode in batches of 1 and of `tasks.tasks_per_step`, all rows predicted from those before.

    Raises:
      UserError: PyTorch is asked for and not there, or `config` asks for what its side does not have.
    """
    if asked.pytorch_repo is not None:
        raise UserError("of the public project only the tasks are timed; use --pytorch, our plain PyTorch version")
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.transformer import check

        check(config)
    tasks = random_tasks(config, random_images(config))
    params = jax.jit(make_learner(config).init)(jax.random.key(0))
    batches = {}
    for size in (1, config.tasks.tasks_per_step):
        draw = jax.jit(draw_batch(with_tasks(config, tasks_per_step=size, sequences_per_task=1)))
        batches[size] = flat_batch(draw(tasks, np.int32(0), hyper_from(config)))
    ours = {size: _side(f"jax{_case(size)}", config, params, episodes_B) for size, episodes_B in batches.items()}
    theirs = {}
    if asked.pytorch:
        theirs = {size: _pytorch_side(f"pytorch{_case(size)}", config, params, batches[size]) for size in batches}
    timings = by_turns([*ours.values(), *theirs.values()], asked.repeats)
    rows = []
    for size in batches:
        table = f"prediction of an episode of {config.tasks.length}, batch of {size}"
        sides = [each[size] for each in (ours, theirs) if size in each]
        against, case = [side.name for side in sides[1:]], _case(size)
        rows += timing_rows(table, sides, timings, "µs/episode", against, case=case, per_unit=True)
        if theirs:
            difference = np.abs(np.asarray(ours[size].run()) - theirs[size].run()).max()
            rows.append(number(table, "jax", "largest |Δ logit|", difference))
    return rows


def _case(size: int) -> str:
    return f", batch of {size}"


def _side(name: str, config: Config, params: dict, episodes_B: Episode) -> Side:
    learner, key = make_learner(config), jax.random.key(0)

    def predict(params, episodes_B):
        return jax.vmap(lambda episode: learner.predict(params, episode, key=key))(episodes_B)

    compiled = compile_apart(predict, params, episodes_B)
    return Side(name, lambda: compiled.run(params, episodes_B), len(episodes_B.y_L), compiled)


def _pytorch_side(name: str, config: Config, params: dict, episodes_B: Episode) -> Side:
    import torch

    from gpicl_jax.bench.pytorch import device_of_torch
    from gpicl_jax.bench.pytorch.tasks import tokens
    from gpicl_jax.bench.pytorch.transformer import Transformer, transplant

    device = device_of_torch()
    module = Transformer(config)
    transplant(module, params)
    module = module.to(device)
    x_BLX, y_BL = (torch.tensor(np.asarray(leaf)).to(device) for leaf in (episodes_B.x_LX, episodes_B.y_L))

    @torch.inference_mode()
    def run() -> np.ndarray:
        logits_BLC = module(tokens(x_BLX, y_BL.long(), config.tasks.classes_per_task, config.model.label_scale))
        return logits_BLC.cpu().numpy()

    return Side(name, run, len(y_BL))
