"""Populations: a member is what it is alone, on any number of devices; one that diverges leaves the others; resume = whole."""

import functools
import operator

import jax
import numpy as np
import pytest

from gpicl_jax.hyper import hyper_from
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError
from gpicl_jax.training.loop import train
from gpicl_jax.training.population import Population
from gpicl_jax.training.signals import Interrupted, StopRequest
from gpicl_jax.training.trainer import Trainer
from tests.helpers import tiny_config

# SGD without momentum: where a gradient is rounding, Adam would enlarge it
SGD = ("--optimizer.name=sgd", "--optimizer.momentum=0")
HYPER = (
    ("--train.seed=1", "--tasks.num_tasks=3"),
    ("--train.seed=2", "--tasks.num_tasks=50", "--optimizer.learning_rate=3e-2"),
    ("--train.seed=2", "--tasks.num_tasks=50", "--tasks.permute_labels_prob=0.5", "--tasks.permute_labels_anneal=7"),
)


def configs(*overrides):
    return [tiny_config(*SGD, *hyper, *overrides) for hyper in HYPER]


def trained(population, path):
    """Parameters [M, …], NumPy."""
    path.mkdir(exist_ok=True)
    return population.members(train(population, RunFolder(path)).state.params)


@functools.cache
def three_members(num_devices):
    return Population(configs(), jax.devices()[:num_devices])


def assert_close(one, other):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), one, other)


def test_a_member_trains_as_it_does_alone():
    population = three_members(2)
    state, losses = population.state(), []
    for _ in range(2):
        state, metrics = population.chunk(state)
        losses.append(population.members(metrics["loss"]))
    together = population.members(state.params)
    trainer = Trainer(configs()[0], devices=jax.devices()[:1])
    for number, config in enumerate(configs()):
        trainer.hyper = jax.device_put(hyper_from(config))
        alone = trainer.state()
        for chunk in range(2):
            alone, metrics = trainer.chunk(alone)
            np.testing.assert_allclose(losses[chunk][number], metrics["loss"], rtol=1e-5)
        assert_close(jax.tree.map(operator.itemgetter(number), together), alone.params)


def test_vmapped_members_are_the_same(monkeypatch):
    """As on a GPU or TPU, where members of a device run under one vmap."""

    def after_a_chunk(population):
        return population.members(population.chunk(population.state()))

    state, metrics = after_a_chunk(three_members(1))  # traced now, in turns
    monkeypatch.setattr(Population, "in_turns", False)
    vmapped, vmapped_metrics = after_a_chunk(Population(configs(), jax.devices()[:1]))
    assert_close(vmapped.params, state.params)
    np.testing.assert_allclose(vmapped_metrics["loss"], metrics["loss"], rtol=1e-5)


def test_members_must_share_their_shapes():
    with pytest.raises(UserError, match="may differ in the numbers of Hyper alone"):
        Population([tiny_config(), tiny_config("--model.width=8")])


def test_a_member_is_validated_as_a_run_is():
    """The same episodes, and the same loss and accuracy of them: here at the cuts of contexts of several sizes."""
    cuts = ("--model.name=context_query", "--eval.sequences_per_task=2")
    population = Population(configs(*cuts), jax.devices()[:2])
    record, loss = population.validate(population.state())
    assert loss is None
    for member, config in enumerate(configs(*cuts)[:2]):
        trainer = Trainer(config, devices=jax.devices()[:1])
        alone, loss = trainer.validate(trainer.state())
        assert alone["validation_loss"] == loss
        for name in ("validation_loss", "validation_last"):
            np.testing.assert_allclose(record[name][member], alone[name], rtol=1e-5)


@pytest.mark.parametrize("setting", ["--train.patience=3", "--log.to=tensorboard"])
def test_what_only_a_run_has_is_refused(setting):
    with pytest.raises(UserError, match=r"train\.patience and log\.to are of a single run"):
        Population(configs(setting))


def test_a_member_that_diverges_leaves_the_others_alone(tmp_path):
    wild = tiny_config(*SGD, *HYPER[0], "--optimizer.learning_rate=1e30", "--train.steps=10")
    both = Population([wild, *configs("--train.steps=10")[1:2]], jax.devices()[:1])
    found = trained(both, tmp_path)
    records = read_metrics(tmp_path)
    finite = {record["step"]: [loss is not None for loss in record["loss"]] for record in records if "loss" in record}
    assert finite[5] in ([True, True], [False, True]) and finite[10] == [False, True]
    alone = Population(configs("--train.steps=10")[1:2], jax.devices()[:1])
    assert_close(jax.tree.map(lambda leaf: leaf[1:], found), trained(alone, tmp_path / "alone"))
    (validated,) = [record for record in records if "validation_loss" in record]
    assert validated["step"] == 10 and validated["validation_loss"][0] is None and np.isfinite(validated["validation_loss"][1])


def test_resumed_is_uninterrupted_on_another_number_of_devices(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    expected = trained(three_members(1), whole)
    with monkeypatch.context() as context:
        context.setattr(StopRequest, "signum", property(lambda _: 15, lambda *_: None), raising=False)
        with pytest.raises(Interrupted, match="at step 5"):
            trained(three_members(1), parts)
    assert_close(trained(three_members(2), parts), expected)
    steps = [record["step"] for record in read_metrics(parts)]
    assert steps == [record["step"] for record in read_metrics(whole)] and steps[-1] == 40
    for one, other in zip(read_metrics(parts), read_metrics(whole), strict=True):
        for name in one.keys() - {"seconds"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4)
