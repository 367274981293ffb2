"""The step and its chunks: scan = loop, pmap = jit = one device, nothing recompiled, nothing moved."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from gpicl_jax.build import make_learner, make_optimizer, make_tasks
from gpicl_jax.evaluation import Evaluator, seen_episode_keys, unseen_episode_keys
from gpicl_jax.hyper import hyper_from
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode, draw_episodes
from gpicl_jax.training import loop, progress
from gpicl_jax.training.parallel import AXIS, gradient_over_mesh, keep_compiled, replicate
from gpicl_jax.training.step import batch_gradient, draw_batch_keys, train_step
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY, tiny_config

SGD = ("--optimizer.name=sgd", "--optimizer.momentum=0")


@functools.cache
def make_trainer(*overrides, parallel="pmap", num_devices=1):
    return Trainer(tiny_config(*overrides), parallel=parallel, devices=jax.devices()[:num_devices])


def copied(state):
    return jax.tree.map(jnp.copy, state)


def test_a_chunk_equals_its_steps_one_by_one():
    trainer = make_trainer("--optimizer.name=muon")
    gradient = functools.partial(batch_gradient, learner=trainer.learner)
    step = jax.jit(
        functools.partial(train_step, config=trainer.config, gradient=gradient, optimizer=make_optimizer(trainer.config))
    )
    state, losses = trainer.state(), []
    for _ in range(5):
        state, metrics = step(state, trainer.tasks, trainer.hyper)
        losses.append(float(metrics["loss"]))
    chunked, metrics = trainer.chunk(trainer.state())
    assert int(chunked.step) == int(state.step) == 5
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    for run in (chunked, state):  # a bias of the keys moves no attention weight: its gradient is rounding, which Adam enlarges
        del run.params["block_0"]["attention"]["key"]["bias"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), chunked.params, state.params)
    assert bool(metrics["finite"])


@functools.cache
def after_a_chunk(*overrides, parallel="pmap", num_devices=1):
    """Parameters and metrics after five steps of SGD."""
    trainer = make_trainer(*SGD, *overrides, parallel=parallel, num_devices=num_devices)
    state, metrics = trainer.chunk(trainer.state())
    assert len(state.params["head"]["kernel"].devices()) == num_devices
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize(
    ("parallel", "num_devices", "num_tasks"),
    [("pmap", 4, "6"), ("jit", 2, "infinite")],
)
def test_devices_share_a_step_without_changing_it(parallel, num_devices, num_tasks):
    """Losses of five steps, and the gradient: SGD without momentum moves the weights by exactly that."""
    overrides = f"--tasks.num_tasks={num_tasks}"
    one, many = after_a_chunk(overrides), after_a_chunk(overrides, parallel=parallel, num_devices=num_devices)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), one, many)


EIGHT = """
import sys, numpy as np, jax
from gpicl_jax.config import load_config
from gpicl_jax.tasks import Episode, draw_episodes
from gpicl_jax.training.trainer import Trainer
trainer = Trainer(load_config(sys.argv[2], tuple(sys.argv[3:])))
state, metrics = trainer.chunk(trainer.state())
assert len(state.params["head"]["kernel"].devices()) == 8
np.savez(f"{sys.argv[1]}/pmap.npz", *jax.tree.leaves(jax.device_get((state.params, metrics))))
"""


@pytest.mark.process
def test_eight_devices_too(tmp_path):
    """In a process of its own, as this one has four."""
    overrides = (*SGD, "--tasks.tasks_per_step=8")
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run([sys.executable, "-c", EIGHT, tmp_path, TINY, *overrides], env=environment, check=True)
    with np.load(tmp_path / "pmap.npz") as many:
        for one, leaf in zip(jax.tree.leaves(after_a_chunk(overrides[-1])), many.values(), strict=True):
            np.testing.assert_allclose(leaf, one, rtol=1e-5, atol=2e-6)


def test_parts_of_a_batch_add_up_to_its_step():
    infinite = "--tasks.num_tasks=infinite"
    one, parts = after_a_chunk(infinite), after_a_chunk(infinite, "--train.accumulate=2", num_devices=2)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), one, parts)


def test_blocks_that_are_recomputed_change_nothing():
    tasks = make_tasks(tiny_config(), "train")
    keys = jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.key(1), (3, 1))
    episodes_TS = jax.jit(draw_episodes)(tasks, *keys)
    episodes_B = jax.tree.map(lambda leaf: leaf[:, 0], episodes_TS)

    def params_and_gradient(remat: str):
        learner = make_learner(tiny_config("--model.name=encoder_decoder", f"--model.remat={remat}"))
        params, key = jax.jit(learner.init)(jax.random.key(2)), jax.random.key(3)

        def mean_loss(params):
            return jax.vmap(lambda episode: learner.loss(params, episode, key=key)[0])(episodes_B).mean()

        return params, jax.jit(jax.value_and_grad(mean_loss))(params)

    (params, gradient), (same_params, same_gradient) = params_and_gradient("false"), params_and_gradient("true")
    jax.tree.map(np.testing.assert_array_equal, params, same_params)
    assert float(optax.tree.norm(gradient[1])) > 0.01
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), gradient, same_gradient)


def test_parts_of_a_batch_need_less_memory():
    """As the compiler counts it."""
    needed = []
    for parts in (1, 4):
        trainer = make_trainer("--tasks.length=50", "--tasks.tasks_per_step=8", f"--train.accumulate={parts}")
        program = trainer._chunk.lower(trainer.state(), trainer.tasks, trainer.hyper).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.5 * needed[0]


def test_recomputed_blocks_keep_less_for_the_backward_pass():
    """As JAX hands it to the compiler; that of the CPU undoes it."""
    episode = Episode(x_LX=jnp.zeros((50, 64)), y_L=jnp.zeros(50, jnp.int32), num_context=jnp.int32(50))

    def kept(remat: str) -> int:
        learner = make_learner(tiny_config("--model.num_layers=4", "--tasks.length=50", f"--model.remat={remat}"))
        key = jax.random.key(0)
        pullback = jax.eval_shape(
            lambda: jax.vjp(lambda params: learner.loss(params, episode, key=key)[0], learner.init(key))[1]
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("true") < 0.4 * kept("false")


def test_pmap_leaves_the_same_parameters_on_every_device():
    """out_axes=None would hide devices that drifted apart: look at each one's own copy."""
    trainer = make_trainer(num_devices=4)
    state, _ = trainer.chunk(trainer.state())
    for leaf in jax.tree.leaves(state.params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4 and all((copy == copies[0]).all() for copy in copies)


def test_slices_of_a_batch_average_to_its_gradient():
    trainer, devices = make_trainer(), jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    gradient = functools.partial(batch_gradient, learner=trainer.learner)
    keys = draw_batch_keys(trainer.tasks, jnp.int32(3), trainer.hyper, (4, 2))
    arguments = (trainer.state().params, trainer.tasks, keys, trainer.hyper)
    whole = jax.jit(gradient)(*arguments)
    sliced = jax.jit(gradient_over_mesh(gradient, mesh))(*replicate(arguments, devices))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), jax.device_get(whole), jax.device_get(sliced))


@pytest.mark.parametrize(("parallel", "num_devices"), [("pmap", 1), ("pmap", 4), ("jit", 4)])
def test_later_chunks_compile_nothing_and_move_nothing_to_the_device(parallel, num_devices, caplog):
    trainer = make_trainer(parallel=parallel, num_devices=num_devices)
    state, _ = trainer.chunk(trainer.state())
    with jax.log_compiles(), jax.transfer_guard("disallow"), caplog.at_level("WARNING"):
        for _ in range(3):
            before, (state, _) = state, trainer.chunk(state)
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))  # donated


def test_steps_draw_different_batches_and_seeds_different_runs():
    trainer = make_trainer()
    hyper = trainer.hyper
    seen = set()
    for seed in (0, 1):
        for step in range(4):
            keys = draw_batch_keys(trainer.tasks, jnp.int32(step), hyper._replace(seed=np.int32(seed)), (4, 2))
            for leaf in keys:
                seen |= set(map(tuple, np.asarray(jax.random.key_data(leaf)).reshape(-1, 2).tolist()))
    assert len(seen) == 2 * 4 * (4 + 8 + 8)


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="tasks_per_step = 6 is not divisible by the 4 devices; give a multiple of 4"):
        make_trainer("--tasks.tasks_per_step=6", num_devices=4)


def test_learning_rate_warms_up_and_decays():
    schedule = make_optimizer(tiny_config("--optimizer.schedule=cosine", "--optimizer.warmup_steps=10")).course()
    values = np.array([float(schedule(step)) for step in range(40)])
    np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10, rtol=1e-5)
    assert values[10] == 1.0 and (np.diff(values[10:]) < 0).all() and values[-1] < 0.01


def test_compiled_programs_are_kept(tmp_path):
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()
    try:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        keep_compiled(tmp_path / "new" / "folder")
        jax.jit(lambda x: 3 * x + 1)(2.0)
        assert list((tmp_path / "new" / "folder").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_few_tasks_are_memorised_and_tell_nothing_about_others():
    config = tiny_config(
        "--tasks.num_tasks=1", "--model.width=64", "--train.chunk=50", "--train.steps=100", "--train.validate_every=50"
    )
    trainer = Trainer(config, devices=jax.devices()[:1])
    state = trainer.state()
    for _ in range(2):
        state, _ = trainer.chunk(state)
    evaluate = Evaluator(trainer.learner)
    seen = evaluate(
        state.params, make_tasks(config, "test"), seen_episode_keys(hyper_from(config), 0, np.arange(1), episodes=64)
    )
    unseen = evaluate(state.params, make_tasks(config, "test"), unseen_episode_keys(0, "test", 16, 4))
    assert seen.first()[0] > 0.6 and seen.last()[0] > 0.6  # known before any example, on images never seen
    assert unseen.last()[0] < 0.3


def test_the_sign_optimiser_follows_its_equation():
    """params −= rate · sign(m), m ← b1 m + (1 − b1) g."""
    config = tiny_config(
        "--optimizer.name=sign", "--optimizer.learning_rate=0.125", "--optimizer.b1=0.75", "--optimizer.clip=0"
    )
    optimizer = make_optimizer(config)(hyper_from(config))
    params, mean = np.zeros(3, np.float32), np.zeros(3, np.float32)
    state, ours = optimizer.init(jnp.zeros(3)), jnp.zeros(3)
    for gradient in np.array([[1, -2, 0], [-2, -1, 0], [-9, 7, 0]], np.float32):
        updates, state = optimizer.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        mean = 0.75 * mean + 0.25 * gradient
        params = params - 0.125 * np.sign(mean)
        np.testing.assert_allclose(ours, params)


def test_annealed_permutation_ends_with_permuted_labels():
    """The same batches as with p = 1 once the steps are over, and as with p = 0 at the start."""
    kept, annealed, permuted = ({"prob": p, "anneal": steps} for p, steps in ((0, 0), (0, 20), (1, 0)))
    trainer = make_trainer("--train.chunk=1")

    def loss(settings, step):
        config = tiny_config(*(f"--tasks.permute_labels_{name}={value}" for name, value in settings.items()))
        _, metrics = trainer._chunk(trainer.state()._replace(step=jnp.int32(step)), trainer.tasks, hyper_from(config))
        return float(metrics["loss"])

    assert loss(annealed, 0) == loss(kept, 0) != loss(permuted, 0)
    assert loss(annealed, 20) == loss(permuted, 20) != loss(kept, 20)


def test_the_speed_is_that_between_results_though_two_are_told_at_once(tmp_path, monkeypatch):
    """A chunk of 5 steps takes a second, the first is compiled for 60; the runtime tells of every other result late."""
    clock = [1000.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    arrives = {1: 1062.0, 2: 1062.0, 3: 1064.0, 4: 1064.0}

    class Told:
        config = tiny_config()

        def record(self, metrics):
            clock[0] = max(clock[0], arrives[metrics])
            return {"loss": 1.0, "accuracy_first": None, "accuracy_last": 0.5}

    report = loop._Report(Told(), RunFolder.create(tmp_path / "run", tiny_config()), None, 0)
    for chunk in (1, 2, 3, 4):
        dispatched = clock[0]
        clock[0] += 60 * (chunk == 1)
        report.tell_later(5 * chunk, chunk, dispatched)
    report.tell()
    assert [record["steps_per_second"] for record in read_metrics(tmp_path / "run")] == [2.5, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("columns", [0, 80])
def test_a_terminal_that_does_not_know_its_width_gets_lines(columns, monkeypatch, capsys):
    """A bar needs a width; without one a person would see nothing until the end."""
    size, fileno = os.terminal_size((columns, 24)), lambda: 2
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True, fileno=fileno)))
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda _: size)
    assert progress.has_bar() == (columns > 0)
    if not columns:
        shown = progress.Progress(steps=20, start=0, bar=True)
        shown.training({"step": 10, "loss": 1.5, "accuracy_first": 0.1, "accuracy_last": 0.2}, speed=2.0)
        assert capsys.readouterr().out == "step 10/20  loss 1.500, accuracy 0.10 → 0.20, 2.0 steps/s, 5 s left\n"
