"""The curriculum: which examples an episode shows, when a rung is left, and that nothing else depends on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.hyper import hyper_from
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import draw_episodes
from gpicl_jax.tasks.scope import Scope
from gpicl_jax.training.curriculum import Climb, climbed, first_rung, scope_of
from gpicl_jax.training.loop import train
from gpicl_jax.training.population import Population
from gpicl_jax.training.signals import Interrupted, StopRequest
from gpicl_jax.training.step import draw_batch_keys
from gpicl_jax.training.trainer import Trainer
from tests.helpers import tiny_config

RECALL = ("--tasks.active_classes=2", "--tasks.images_per_class=1")
ONE_TASK = ("--tasks.num_tasks=1", "--tasks.permute_labels_prob=0", "--tasks.rise_at=0.02")  # it is soon known
EASY = (*RECALL, *ONE_TASK, "--optimizer.name=sgd", "--optimizer.learning_rate=0.3")


@functools.cache
def tasks_of(*overrides):
    config = tiny_config("--tasks.length=60", "--tasks.num_tasks=infinite", *overrides)
    return make_tasks(config, "train"), hyper_from(config)


def drawn(tasks, scope, permute=0.0):
    keys = jax.random.split(jax.random.key(0), 6), jax.random.split(jax.random.key(1), (6, 3))
    return jax.tree.map(np.asarray, jax.jit(draw_episodes)(tasks, *keys, permute, scope))


def images_of_classes(x_LX, y_L):
    """The number of different images of each class that an episode shows."""
    return {int(label): len(np.unique(x_LX[y_L == label].round(4), axis=0)) for label in np.unique(y_L)}


@pytest.mark.parametrize(("classes", "images"), [(2, 1), (5, 1), (10, 1), (3, 4), (10, 2), (4, 60)])
def test_an_episode_shows_the_classes_and_images_of_its_scope(classes, images):
    tasks, _ = tasks_of()
    episodes = drawn(tasks, Scope(jnp.int32(classes), jnp.int32(images)))
    found = [
        images_of_classes(*each) for each in zip(episodes.x_LX.reshape(18, 60, -1), episodes.y_L.reshape(18, 60), strict=True)
    ]
    assert all(len(each) <= classes and max(each.values()) <= images for each in found)
    assert np.mean([len(each) == classes for each in found]) > 0.8  # a class of ten may be drawn never in 60 rows
    assert len({tuple(each) for each in found}) > (1 if classes < 10 else 0)  # they differ from episode to episode
    if images < 60:
        assert max(max(each.values()) for each in found) == images


def test_every_active_class_is_shown_as_often_in_recall():
    tasks, _ = tasks_of()
    episodes = drawn(tasks, Scope(jnp.int32(2), jnp.int32(1)))
    shares = [(y_L == y_L[0]).mean() for y_L in episodes.y_L.reshape(18, 60)]
    assert abs(np.mean(shares) - 0.5) < 0.06 and 0.02 < np.std(shares) < 0.12  # √(1/4 · 1/60) = 0.065


def test_labels_belong_to_their_images_in_any_scope():
    """The label of an image is the same in an episode within a scope as in the whole one."""
    tasks, _ = tasks_of()
    whole, some = drawn(tasks, None, 1.0), drawn(tasks, Scope(jnp.int32(3), jnp.int32(2)), 1.0)
    for task in range(6):
        for episode in range(3):
            of_whole = {
                row.tobytes(): label for row, label in zip(whole.x_LX[task, episode], whole.y_L[task, episode], strict=True)
            }
            for row, label in zip(some.x_LX[task, episode], some.y_L[task, episode], strict=True):
                assert of_whole[row.tobytes()] == label


def test_the_last_rung_is_the_task_as_it_is():
    tasks, _ = tasks_of()
    whole, last = drawn(tasks, None, 1.0), drawn(tasks, Scope(jnp.int32(10), jnp.int32(60)), 1.0)
    jax.tree.map(np.testing.assert_array_equal, whole, last)


@pytest.mark.parametrize("data", ["random", '["digits", "random"]'])
def test_any_source_has_a_scope(data):
    tasks, _ = tasks_of(f"--data.train={data}")
    episodes = drawn(tasks, Scope(jnp.int32(4), jnp.int32(1)))
    for each in zip(episodes.x_LX.reshape(18, 60, -1), episodes.y_L.reshape(18, 60), strict=True):
        assert set(images_of_classes(*each).values()) == {1} and len(np.unique(each[1])) <= 4


def test_only_classes_rise_and_only_images_rise():
    for given, expected in (
        ("--tasks.active_classes=8", [(8, 60), (9, 60), (10, 60), (10, 60)]),
        ("--tasks.images_per_class=1", [(10, 1), (10, 2), (10, 4), (10, 60)]),
    ):
        tasks, hyper = tasks_of(given)
        assert [tuple(map(int, scope_of(jnp.int32(rung), tasks, hyper))) for rung in range(4)] == expected


def test_a_rung_is_left_above_the_accuracy_that_is_corrected_for_chance():
    tasks, hyper = tasks_of(*RECALL)
    stays = Climb(jnp.int32(0), jnp.float32(0.49))
    assert int(climbed(stays, jnp.float32(0.74), tasks, hyper).rung) == 0  # (0.74 − 0.5) / 0.5 = 0.48
    leaves = climbed(Climb(jnp.int32(0), jnp.float32(0.5)), jnp.float32(0.76), tasks, hyper)
    assert int(leaves.rung) == 1 and float(leaves.accuracy) == 0
    last = Climb(jnp.int32(40), jnp.float32(0.9))
    assert int(climbed(last, jnp.float32(1.0), tasks, hyper).rung) == 40


def test_a_run_climbs_and_tells(tmp_path):
    trainer = Trainer(tiny_config(*EASY, "--train.steps=60"), devices=jax.devices()[:1])
    (tmp_path / "run").mkdir()
    state = train(trainer, RunFolder(tmp_path / "run")).state
    told = [(each["active_classes"], each["images_per_class"]) for each in read_metrics(tmp_path / "run") if "loss" in each]
    assert told == sorted(told) and told[-1] > told[0]
    assert told[-1] == tuple(map(int, scope_of(state.climb.rung, trainer.tasks, trainer.hyper)))


def test_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    def trained(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return train(
            Trainer(tiny_config(*EASY, "--train.steps=40"), devices=jax.devices()[:1]), RunFolder(tmp_path / name)
        ).state

    with monkeypatch.context() as context:
        context.setattr(StopRequest, "signum", property(lambda _: 15, lambda *_: None), raising=False)
        with pytest.raises(Interrupted, match="at step 5"):
            trained("parts")
    jax.tree.map(np.testing.assert_array_equal, trained("parts"), trained("whole"))


def test_devices_share_it():
    found = []
    for parallel, number in (("pmap", 1), ("pmap", 2), ("jit", 2)):
        trainer = Trainer(tiny_config(*EASY), parallel=parallel, devices=jax.devices()[:number])
        state = trainer.state()
        for _ in range(4):
            state, metrics = trainer.chunk(state)
        found.append((float(metrics["loss"]), int(state.climb.rung)))
    assert found[0][1] > 0
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-4)


def test_members_rise_alone():
    """A member that must be nearly perfect stays, beside one that rises, and both are as they would be alone."""
    configs = [tiny_config(*EASY), tiny_config(*EASY, "--tasks.rise_at=0.99"), tiny_config(*EASY, "--tasks.active_classes=4")]
    population = Population(configs, jax.devices()[:2])
    state = population.state()
    for _ in range(4):
        state, metrics = population.chunk(state)
    record = population.record(metrics)
    assert record["active_classes"][1] == 2 < record["active_classes"][0] and record["active_classes"][2] >= 4
    for number, config in enumerate(configs):
        trainer = Trainer(config, devices=jax.devices()[:1])
        alone = trainer.state()
        for _ in range(4):
            alone, metrics = trainer.chunk(alone)
        told = trainer.record(metrics)
        assert told["active_classes"] == record["active_classes"][number]
        np.testing.assert_allclose(told["loss"], record["loss"][number], rtol=1e-4)


def test_only_training_is_within_a_scope():
    config = tiny_config(*RECALL)
    assert make_tasks(config, "train").curriculum
    assert not make_tasks(config, "validation").curriculum and not make_tasks(config, "test").curriculum


def test_the_tasks_of_a_step_are_those_without_a_curriculum():
    """Keys do not depend on the rung, so that at the last one a run draws what a plain run draws."""
    with_it, hyper = tasks_of(*RECALL)
    plain, plain_hyper = tasks_of()
    keys = [draw_batch_keys(each, jnp.int32(7), its, (4, 2)) for each, its in ((with_it, hyper), (plain, plain_hyper))]
    jax.tree.map(np.testing.assert_array_equal, *[jax.tree.map(jax.random.key_data, each) for each in keys])
    assert first_rung() == (0, 0.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--tasks.active_classes=10",), "tasks.active_classes = 10, but a task has 10 classes; give fewer, or 'all'"),
        (("--tasks.active_classes=1",), "at least 2"),
        (("--tasks.active_classes=few",), "expected a number from 2 to 10000 or 'all'"),
        (("--tasks.images_per_class=0",), "at least 1"),
        (("--tasks.images_per_class=10",), "shows about 10 images of each of 10 classes; give fewer, or 'all'"),
        (("--tasks.rise_at=0.7",), "tasks.rise_at = 0.7 is for a curriculum; give tasks.active_classes = 2"),
        ((*RECALL, "--tasks.rise_at=1"), "expected less than 1"),
        ((*RECALL, "--model.name=context_query", "--tasks.num_context=50"), "but tasks.num_context = 50"),
    ],
)
def test_impossible_curricula_are_one_line(overrides, message):
    with pytest.raises(UserError) as error:
        load_config("digits_transformer", overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_source_without_classes_to_choose_from_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", images=np.arange(300 * 16, dtype=np.uint8).reshape(300, 4, 4), labels=np.arange(300) % 2)
    config = tiny_config(f"--data.train={tmp_path / 'two.npz'}", "--data.size=4", "--tasks.active_classes=2")
    with pytest.raises(UserError, match=r"'two.npz' has 2 classes, so that 2 active ones are all; give tasks.images_per_class"):
        make_tasks(config, "train")
