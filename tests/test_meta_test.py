import dataclasses
import json

import jax
import numpy as np
import pandas as pd
import pytest

from gpicl_jax import figures
from gpicl_jax.build import make_learner
from gpicl_jax.evaluation import Evaluator
from gpicl_jax.paper import paper_learning_curve
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture, TaskDistribution, draw_episodes
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.meta_test import _seen_ids, meta_test
from gpicl_jax.training.report import table, write_report
from tests.helpers import tiny_config

RNG = np.random.default_rng(0)


def own_files(folder, names, size=8):
    """Bright or dark blobs, three classes, as .npz files; returns their paths."""
    rng = np.random.default_rng(0)
    for name in names:
        labels = np.arange(150) % 3
        images = np.clip(rng.normal(60, 20, (150, size, size)) + 60 * labels[:, None, None], 0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return tuple(str(folder / f"{name}.npz") for name in names)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """An untrained learner, tested on digits, random points, and a file of three classes and another size."""
    config = tiny_config("--tasks.num_tasks=8", "--tasks.permute_labels_prob=0.5")
    learner = make_learner(config)
    evaluator, params = Evaluator(learner), jax.jit(learner.init)(jax.random.key(0))
    (mine,) = own_files(tmp_path_factory.mktemp("own"), ["mine"], size=9)
    said = []
    result = meta_test(config, params, evaluator, datasets=("digits", "random", mine), say=said.append)
    assert said == ["digits", "random", "mine.npz"]
    return config, params, result


def test_every_dataset_has_its_kinds_of_tasks_and_its_solvers(tested):
    _, _, result = tested
    curves = result.curves
    everywhere = {"unseen_tasks", "unseen_tasks_permuted", "identity_tasks", "seen_tasks"}
    for dataset in ("digits", "random", "mine.npz"):
        rows = curves[curves.dataset == dataset]
        own = {"unseen_tasks_train_images"} if dataset == "digits" else set()
        assert set(rows.tasks) == everywhere | own
        for kind in ("unseen_tasks", "identity_tasks"):
            assert set(rows[rows.tasks == kind].solver) == {"transformer", "1-NN", "ridge", "kernel ridge"}
        solvers = rows[rows.solver != "transformer"]
        assert solvers.loss.isna().all() and rows[rows.solver == "transformer"].loss.notna().all()
    assert result.tests["mine.npz"].num_labels == 3 and result.tests["mine.npz"].source.num_features == 64
    assert 12 <= result.images["mine.npz", "unseen_tasks"] <= 45  # about 20% of 150 images are for the test
    assert not curves.duplicated(["dataset", "tasks", "position", "solver"]).any()


def test_the_report_holds_what_was_measured(tested, tmp_path):
    config, params, result = tested
    folder = RunFolder.create(tmp_path / "run", config)
    write_report(folder, result, params, steps=7, checkpoint="best", total_seconds=None, stopped_early=False)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["checkpoint"] == "best" and summary["steps"] == 7
    assert summary["num_params"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert set(summary["reference_solvers"]["unseen_tasks"]["kernel ridge"]) == {"alpha", "gamma"}
    unseen = summary["datasets"]["mine.npz"]["unseen_tasks"]
    scores = result.scores["mine.npz", "unseen_tasks", "1-NN"]
    np.testing.assert_allclose(unseen["1-NN"]["last"], scores.accuracy_TSL[:, :, 11].mean())
    assert unseen["episodes"] == 16 and unseen["1-NN"]["first"] is None and unseen["transformer"]["first"] is not None
    assert summary["datasets"]["mine.npz"]["standardised_by"] == "train"
    assert len(pd.read_csv(folder.path / "learning_curves.csv")) == len(result.curves)
    assert (folder.path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "standardised by" not in table(result)
    kana = dataclasses.replace(result.tests["digits"].source, statistics="test")
    alone = dataclasses.replace(
        result, tests={**result.tests, "digits": dataclasses.replace(result.tests["digits"], source=kana)}
    )
    assert table(alone).endswith("digits: pixels standardised by its test split, for want of a training split")
    for train, names in {("digits",): ["digits", "random", "mine.npz"], ("mnist",): ["digits", "random", "a", "mnist"]}.items():
        chance = dict.fromkeys(names, 0.1)
        figure = figures.learning_curves(result.curves, learner="transformer", train=train, chance=chance)
        assert [axes.get_title() for axes in figure.axes] == names
    labels = {line.get_label(): line for line in figure.axes[3].lines}
    assert list(labels["the paper's Transformer: unseen tasks"].get_ydata())[-1] == 0.737
    lines = [line.split() for line in table(result).splitlines()]
    (row,) = [line for line in lines[:6] if line and line[0] == "mine.npz"]
    mean, error = scores.last()
    assert row[4:7] == [f"{mean:.3f}", "±", f"{error:.3f}"] and row[-1] == str(result.images["mine.npz", "unseen_tasks"])


def test_two_files_of_one_name_are_refused_before_anything_is_scored(tested, tmp_path):
    config, params, _ = tested
    (tmp_path / "other").mkdir()
    paths = own_files(tmp_path, ["mine"]) + own_files(tmp_path / "other", ["mine"])
    with pytest.raises(UserError, match="two datasets are called"):
        meta_test(config, params, datasets=paths)


def test_seen_tasks_of_a_mixture_are_those_of_the_set_that_is_tested(tmp_path):
    train = own_files(tmp_path, ["one", "two"])
    config = tiny_config(f"--data.train={json.dumps(train)}", "--data.weights=[3, 1]", "--tasks.num_tasks=64")
    ids = [_seen_ids(config, name, 64).tolist() for name in train]
    assert sorted(ids[0] + ids[1]) == list(range(64)) and len(ids[0]) > len(ids[1])
    assert _seen_ids(config, "digits", 64).tolist() == list(range(64))
    assert _seen_ids(config, train[0], 5).tolist() == ids[0][:5]
    assert len(_seen_ids(tiny_config(), "digits", 64)) == 0


def test_a_seen_task_of_a_mixture_is_the_one_that_was_trained_on():
    """Sets of 30 classes: tasks choose among them; the test draws the same classes as the mixture does."""
    images = RNG.integers(0, 256, (300, 16), dtype=np.uint8)
    labels = np.arange(300) % 30
    one, two = (ImageDataset.build(images, labels, mean=0.0, std=1.0, name=name) for name in ("one", "two"))
    mixed = TaskDistribution(Mixture((one, two)), length=20, classes_per_task=5)
    alone = TaskDistribution(one, length=20, classes_per_task=5)
    draw = jax.jit(draw_episodes)
    for index in range(8):
        keys = jax.random.key(index)[None], jax.random.split(jax.random.key(99), (1, 3))
        for left, right in zip(draw(mixed, *keys), draw(alone, *keys), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5)


def test_the_papers_points_come_with_the_training_set_they_are_of():
    assert paper_learning_curve(("mnist",), "mnist").accuracy.iloc[-1] == 0.737
    assert paper_learning_curve(("mnist",), "cifar10").values.tolist() == [[99.0, 0.194]]
    assert paper_learning_curve(("fashion_mnist",), "mnist").accuracy.iloc[-1] == 0.649
    assert paper_learning_curve(("fashion_mnist",), "kmnist").empty
    assert paper_learning_curve(("mnist", "fashion_mnist"), "mnist").empty
    assert paper_learning_curve(("digits",), "digits").empty
