"""The study on Omniglot: its learner, network, pairs of characters, experiment and plots; the package finds them by name."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from gpicl_jax.cli import main
from gpicl_jax.config import changed_settings, load_config, settings_by_name, to_toml
from gpicl_jax.data.prepared import data_folder, read_prepared
from gpicl_jax.experiments.engine import make_experiment
from gpicl_jax.experiments.engine.files import publish
from gpicl_jax.experiments.omniglot_study import dataset, experiment
from gpicl_jax.experiments.omniglot_study.dataset import pairs
from gpicl_jax.experiments.omniglot_study.experiment import StudyPopulation
from gpicl_jax.experiments.omniglot_study.learner import StudyMaml
from gpicl_jax.experiments.omniglot_study.model import PooledConv, StudyConv, convolve, max_pool
from gpicl_jax.experiments.omniglot_study.source import Pairs
from gpicl_jax.models.mlp import MLP
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.tasks.sources.base import Drawing
from gpicl_jax.training.loop import train
from gpicl_jax.training.parallel import gradient_in_parts
from gpicl_jax.training.step import batch_gradient, draw_batch_keys
from gpicl_jax.training.trainer import Trainer
from tests.helpers import tiny_config
from tests.test_conv import given, nudged
from tests.test_few_shot import table_of
from tests.test_maml import X, adapted, initial, loss_and_metrics, make_episode, meta_gradient, predict
from tests.test_omniglot import SPLITS, own_classes, real

STUDY = make_experiment("omniglot-maml", "smoke")
SMALL = ("--data.size=16", "--model.padding=SAME")


def two_classes(**changes):
    inner = {"inner_rate": 0.5, "inner_steps": 3} | changes
    return StudyMaml(MLP(2, width=5, num_layers=1), X, num_context=5, **inner)


@pytest.fixture
def params_of_two():
    episode = make_episode()._replace(y_L=jnp.array([1, 0, 1, 0, 1, 1, 0, 0]))
    return episode, initial(two_classes())


def test_a_squashed_logit_cannot_say_much():
    """The study's floor: log(1 + 1/e) for class 1 and log 2 for class 0."""
    logits_LC = jnp.array([[0.0, 1e4], [0.0, -1e4]])
    loss_L = optax.softmax_cross_entropy_with_integer_labels(two_classes(squash=True).descended(logits_LC), jnp.array([1, 0]))
    np.testing.assert_allclose(loss_L, [np.log(1 + np.exp(-1)), np.log(2)], rtol=1e-6)


def test_the_meta_loss_counts_as_many_queries_as_it_is_told():
    episode = make_episode()._replace(y_L=jnp.array([1, 0, 1, 0, 1, 1, 0, 0]))
    params = initial(two_classes())
    logits_LC = predict(two_classes(), params, episode)
    loss_L = optax.softmax_cross_entropy_with_integer_labels(logits_LC, episode.y_L)
    for number in (1, 2):
        loss, metrics = loss_and_metrics(two_classes(num_queries=number), params, episode)
        np.testing.assert_allclose(loss, loss_L[5 : 5 + number].mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["queries_loss"], loss_L[5:].mean(), rtol=1e-5)
    changed = episode._replace(x_LX=episode.x_LX.at[7].add(1.0))
    gradients = [meta_gradient(two_classes(num_queries=1), params, each) for each in (episode, changed)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)  # a query that does not count changes nothing


def test_squashed_logits_leave_the_prediction_as_it_is():
    """Class 1 is always the larger of (0, σ(z))."""
    episode = make_episode()._replace(y_L=jnp.array([1, 0, 1, 0, 1, 1, 0, 0]))
    learner = two_classes(squash=True)
    params = initial(learner)
    classes_L = predict(learner, params, episode).argmax(axis=1)
    _, metrics = loss_and_metrics(learner, params, episode)
    np.testing.assert_array_equal(metrics["correct_L"][5:], (classes_L == episode.y_L)[5:])
    assert set(classes_L[5:].tolist()) == {0, 1}


def test_unit_gradients_are_of_each_episode():
    """However many parts the batch is cut into; the losses stay as they are."""
    settings = ("--learner.name=study_maml", "--model.name=mlp", "--tasks.num_context=5", "--learner.unit_gradients=true")
    trainer = Trainer(tiny_config(*settings), devices=jax.devices()[:1])
    keys = draw_batch_keys(trainer.tasks, jnp.int32(3), trainer.hyper, (4, 1))
    arguments = (trainer.state().params, trainer.tasks)
    plain = jax.jit(functools.partial(batch_gradient, learner=dataclasses.replace(trainer.learner, unit_gradients=False)))
    one_by_one = [plain(*arguments, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], keys), trainer.hyper) for i in range(4)]
    norms = [float(optax.tree.norm(gradient)) for gradient, _ in one_by_one]
    assert max(norms) > 1.05 * min(norms)
    units = [
        jax.tree.map(lambda leaf, norm=norm: leaf / norm, found) for (found, _), norm in zip(one_by_one, norms, strict=True)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 4, *units)
    for parts in (1, 2):
        units = gradient_in_parts(functools.partial(batch_gradient, learner=trainer.learner), parts)
        found, metrics = jax.jit(units)(*arguments, keys, trainer.hyper)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
        np.testing.assert_allclose(metrics["loss"], np.mean([each["loss"] for _, each in one_by_one]), rtol=1e-5)


def plain(h_Lhwc, kernel_rrco):
    return jax.lax.conv_general_dilated(h_Lhwc, kernel_rrco, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_a_convolution_has_the_derivatives_of_xlas_own(platform, monkeypatch):
    """First ones, and second ones as MAML takes them, of problems with kernels of their own; in turns, or grouped."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, **branches: branches[platform](*given))
    jax.clear_caches()
    h_BLhwc = jax.random.normal(jax.random.key(1), (2, 3, 7, 6, 2))
    kernel_Brrco = jax.random.normal(jax.random.key(2), (2, 3, 3, 2, 4))

    def adapted(convolve, h_Lhwc, kernel_rrco):
        def loss(h_Lhwc, kernel_rrco):
            return jnp.tanh(convolve(h_Lhwc, kernel_rrco)).sum()

        slopes = jax.grad(loss, argnums=(0, 1))(h_Lhwc, kernel_rrco)
        return loss(h_Lhwc + 0.1 * slopes[0], kernel_rrco - 0.1 * slopes[1])

    for function in (lambda convolve, *given: jnp.tanh(convolve(*given)).sum(), adapted):
        ours, theirs = (
            jax.jit(jax.vmap(jax.grad(functools.partial(function, each), argnums=(0, 1))))(h_BLhwc, kernel_Brrco)
            for each in (convolve, plain)
        )
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)
    program = str(jax.make_jaxpr(jax.vmap(convolve))(h_BLhwc, kernel_Brrco))
    assert ("feature_group_count=2" in program) == (platform == "default")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_bias_and_relu_may_come_after_pooling(padding):
    h_Lhwc = jax.random.normal(jax.random.key(1), (3, 9, 9, 2))
    layer = PooledConv(4, padding)
    params = layer.init(jax.random.key(0), h_Lhwc)["params"]
    kernel_rrco, bias = params["kernel"].reshape(5, 5, 2, 4), params["bias"].reshape(1, 1, 1, 4) - 0.6
    axes = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(h_Lhwc, kernel_rrco, (1, 1), padding, dimension_numbers=axes)
    params = params | {"bias": bias.reshape(4)}
    expected = max_pool(jax.nn.relu(convolved + bias))
    assert 0.1 < (expected > 0).mean() < 0.9
    np.testing.assert_allclose(layer.apply({"params": params}, h_Lhwc), expected, atol=1e-5)


def test_an_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match="an image of 4×6 is too small for a kernel of 5×5"):
        convolve(jnp.zeros((1, 4, 6, 1)), jnp.zeros((5, 5, 1, 1)))


def test_an_odd_row_and_column_are_not_pooled():
    h_Lhwc = jnp.arange(15.0).reshape(1, 3, 5, 1)
    assert max_pool(h_Lhwc)[0, ..., 0].tolist() == [[6.0, 8.0]]


def test_the_studys_network_equals_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    model, x_LX = StudyConv(), given(length=3, side=105)
    params = nudged(model.init(jax.random.key(0), x_LX)["params"])
    assert params["hidden"]["kernel"].shape == (64, 10)  # the study's flatten
    to_torch = lambda leaf: torch.tensor(np.asarray(leaf))  # noqa: E731
    h, channels = to_torch(x_LX).reshape(-1, 1, 105, 105), 1
    for layer, features in enumerate((6, 10, 12, 16)):
        kernel = to_torch(params[f"conv_{layer}"]["kernel"].reshape(5, 5, channels, features)).permute(3, 2, 0, 1)
        h = torch.nn.functional.conv2d(h, kernel, to_torch(params[f"conv_{layer}"]["bias"]))
        h, channels = torch.nn.functional.max_pool2d(h.relu(), 2), features
    hidden = (h.flatten(1) @ to_torch(params["hidden"]["kernel"]) + to_torch(params["hidden"]["bias"])).relu()
    z = hidden @ to_torch(params["head"]["kernel"]) + to_torch(params["head"]["bias"])
    logits_LC = model.apply({"params": params}, x_LX)
    np.testing.assert_allclose(logits_LC[:, 1], z[:, 0], atol=1e-4)
    assert (logits_LC[:, 0] == 0).all()


@pytest.mark.parametrize(("side", "padding"), [(76, "VALID"), (28, "SAME")])
def test_the_smallest_images_of_the_studys_network(side, padding):
    model = StudyConv(padding=padding)
    assert model.init(jax.random.key(0), given(2, side))["params"]["hidden"]["kernel"].shape == (16, 10)
    if padding == "VALID":
        with pytest.raises(ValueError, match="too small to be pooled"):
            model.init(jax.random.key(0), given(2, side - 1))


def test_a_pair_is_two_classes_of_its_list_and_label_1_is_that_of_the_first_example():
    source = Pairs(**vars(own_classes()), pairs_P2=jnp.array([[0, 3], [2, 5], [2, 6]]))
    keys = jax.random.split(jax.random.key(0), 300)
    drawing = Drawing(length=12, classes_per_task=2, balanced=False, num_context=8)
    indices_BL, labels_BL = jax.vmap(lambda key: source.choose(key, key, drawing))(keys)
    classes_BL, labels_BL = np.asarray(indices_BL) // 6, np.asarray(labels_BL)
    assert (labels_BL == (classes_BL == classes_BL[:, :1])).all() and (
        np.sort(indices_BL)[:, 1:] > np.sort(indices_BL)[:, :-1]
    ).all()
    found, counts = np.unique([np.unique(row) for row in classes_BL], axis=0, return_counts=True)
    assert found.tolist() == [[0, 3], [2, 5], [2, 6]] and counts.min() > 70  # each as likely: 100 ± 8
    assert abs(classes_BL[:, 0].mean() - found.mean()) < 0.5  # either class may come first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_per_task": 3}, "makes tasks of two classes"),
        ({"balanced": True}, "set tasks.balanced = false"),
        ({"length": 13}, "have 12 drawings"),
    ],
)
def test_pairs_that_cannot_fill_an_episode_are_refused(changes, message):
    source = Pairs(**vars(own_classes()), pairs_P2=jnp.array([[0, 1]]))
    with pytest.raises(UserError, match=message):
        TaskDistribution(source, **({"length": 12, "classes_per_task": 2} | changes))


@real
def test_alphabets_are_divided_70_15_15_and_pairs_stay_within_one():
    base = read_prepared("omniglot", data_folder())
    alphabets = dataset.alphabets(base)
    assert len(alphabets) == 964 and len(np.unique(alphabets)) == 30
    of_split = {split: pairs(split) for split in SPLITS}
    seen = {split: set(alphabets[np.unique(each)].tolist()) for split, each in of_split.items()}
    assert sum(map(len, seen.values())) == 30 == len(set.union(*seen.values()))
    shares = {split: np.isin(alphabets, list(own)).mean() for split, own in seen.items()}
    assert abs(shares["train"] - 0.7) < 0.06 and abs(shares["validation"] - 0.15) < 0.06
    for each in of_split.values():
        assert (alphabets[each[:, 0]] == alphabets[each[:, 1]]).all() and (each[:, 0] < each[:, 1]).all()
        assert len(np.unique(each, axis=0)) == len(each)


def test_alphabets_too_small_to_be_divided_or_paired_are_refused(monkeypatch):
    monkeypatch.setattr(dataset.prepared, "read_prepared", lambda *_: None)
    for alphabets, message in ((np.arange(9), "has two characters"), (np.array([3, 3, 3, 3]), "has two characters")):
        monkeypatch.setattr(dataset, "alphabets", lambda _, alphabets=alphabets: alphabets)
        with pytest.raises(UserError, match=message):
            pairs("test")


@pytest.mark.parametrize(
    ("at", "told", "shown"),
    [((0,), "| diverges | 0.750 | – |", [np.nan, 0.75]), ((1,), "| 0.750 | diverges | – |", [0.75, np.nan])],
)
def test_a_diverging_inner_loop_of_the_study_is_told(at, told, shown, tmp_path):
    frame = table_of(tmp_path, STUDY, at)
    assert told in STUDY.summary(frame)
    accuracy, gain = STUDY.figure(frame).axes
    np.testing.assert_array_equal(np.array([line.get_xdata()[0] for line in accuracy.lines[:2]], float), shown)
    assert np.isnan(float(gain.containers[0].lines[0].get_xdata()[0]))


def small_population(*overrides):
    sizes = ("--data.train=digits", "--data.size=8", "--tasks.length=16", "--tasks.num_context=10")
    sizes += ("--model.name=mlp", "--model.width=4", "--learner.inner_steps=3")
    steps = ("--train.steps=4", "--train.validate_every=2", "--optimizer.learning_rate=0.01")
    configs = [load_config("omniglot/study", (*sizes, *steps, *overrides, f"--train.seed={seed}")) for seed in range(2)]
    return StudyPopulation(configs, jax.devices()[:2])


def test_inner_losses_that_are_not_finite_are_null_in_the_records(monkeypatch):
    found = {"inner_loss": jnp.array([0.71239, jnp.inf, jnp.nan]), "inner_validation_loss": jnp.full(3, 0.71239)}
    monkeypatch.setattr(StudyMaml, "inner_losses", lambda *_: found)
    population = small_population()
    record = json.loads(json.dumps(population.validate(population.state())[0], allow_nan=False))
    assert record["inner_loss"] == record["untrained_inner_loss"] == [8 * [[0.7124, None, None]]] * 2
    assert record["inner_validation_loss"] == [8 * [3 * [0.7124]]] * 2


def test_inner_losses_are_recorded_with_each_validation_though_a_run_is_killed_before_its_first_checkpoint(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "inner_loss": [7, 7], "seconds": 1.0}\n{"step": 5, "loss": [1, 1]}\n')
    population = small_population()
    train(population, RunFolder(tmp_path))
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records if "queries_loss" in record] == [1, 2, 3, 4]
    first, last = (record for record in records if "inner_loss" in record)
    assert (first["step"], last["step"]) == (2, 4) and np.shape(last["inner_loss"]) == (2, 8, 3)
    for name in ("inner_loss", "inner_validation_loss"):
        assert first[name] != last[name] and first[f"untrained_{name}"] == last[f"untrained_{name}"] != first[name]


def test_losses_along_the_inner_loop(params_of_two):
    """They are of the context before each step, and of all queries after it, whatever the meta-loss counts."""
    episode, params = params_of_two
    learner = two_classes(num_queries=1)
    found = jax.jit(functools.partial(learner.inner_losses, key=None))(params, episode)
    for steps in range(4):
        weights = adapted(two_classes(inner_steps=steps), params, episode)
        logits_LC = jax.jit(learner.model.apply)({"params": weights}, episode.x_LX)
        loss_L = optax.softmax_cross_entropy_with_integer_labels(logits_LC, episode.y_L)
        if steps < 3:
            np.testing.assert_allclose(found["inner_loss"][steps], loss_L[:5].mean(), rtol=1e-5)
        if steps:
            np.testing.assert_allclose(found["inner_validation_loss"][steps - 1], loss_L[5:].mean(), rtol=1e-5)


def study_rows(gains, condition="Adam 1e-4", validation_loss=0.1):
    common = {"condition": condition, "loss": 0.7, "episodes": 100, "validation_loss": validation_loss}
    rows = []
    for seed, gain in enumerate(gains):
        rows.append(common | {"seed": seed, "tasks": "before", "last": 0.6})
        rows.append(common | {"seed": seed, "tasks": "after", "last": 0.6 + gain, "gain": gain, "gain_standard_error": 0.02})
    return pd.DataFrame(rows)


def test_a_gain_is_of_the_same_problems_and_has_its_interval():
    (row,) = experiment.summarise(study_rows([0.1])).itertuples()
    assert row.gain == 0.1 and row.interval == pytest.approx(1.96 * 0.02)
    (row,) = experiment.summarise(study_rows([0.0, 0.2])).itertuples()
    assert row.gain == pytest.approx(0.1) and row.interval == pytest.approx(
        ((12.706 * 0.2 / 2) ** 2 + (1.96 * 0.02) ** 2) ** 0.5, rel=1e-3
    )
    assert "+0.100" in STUDY.summary(study_rows([0.1]))


def test_validation_problems_decide_the_search():
    """Not the gain on test problems; and conditions outside the search take no part."""
    names = list(experiment.SEARCH)
    rows = [study_rows([0.3], names[0], 0.4), study_rows([0.1], names[4], 0.3), study_rows([0.2])]
    told = f"Of 2 in the search, '{names[4]}' has the lowest validation loss, 0.300."
    assert told in STUDY.summary(pd.concat(rows, ignore_index=True))


def test_the_studys_plots_come_from_the_metrics_of_its_runs(tmp_path):
    """Of two members, each with its own losses; a run without records, and one that is not in the table, are passed over."""
    runs, results = tmp_path / "runs", tmp_path / "results"
    run = runs / "one"
    run.mkdir(parents=True)
    axes = [{"condition": "Adam 1e-4", "seed": 0, "settings": "0"}, {"condition": "logits", "seed": 0, "settings": "01"}]
    (run / "members.json").write_text(json.dumps({"members": axes}))
    inner = np.linspace(1, 0.5, 2 * 8 * 6).reshape(2, 8, 6).tolist()
    untrained = (2 + np.asarray(inner)).tolist()
    inner[0][3][4:] = [None, None]
    records = [{"step": step, "loss": [0.7, 0.1], "queries_loss": [0.7, None], "seconds": 1.0} for step in range(1, 5)]
    found = {"inner_loss": inner, "inner_validation_loss": inner}
    found |= {f"untrained_{name}": untrained for name in found}
    records += [{"step": step, "validation_loss": [0.6, 0.5], **found} for step in (2, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    empty, old = (runs / name for name in ("two", "three"))
    empty.mkdir()
    (empty / "members.json").write_text(json.dumps({"members": axes}))
    shutil.copytree(run, old)
    (old / "members.json").write_text(json.dumps({"members": [each | {"condition": "SGD 1e-3"} for each in axes]}))
    results.mkdir()
    rows = [study_rows([0.1], each["condition"]).assign(settings=each["settings"]) for each in axes]
    frame = pd.concat(rows, ignore_index=True)
    publish(STUDY, frame, results, runs)
    names = {"meta_loss_study", "meta_loss_changes", "inner_loss", "inner_validation_loss"}
    assert {path.name for path in results.iterdir()} == {"smoke.png"} | {f"smoke_{name}.png" for name in names}
    drawn = STUDY.files(frame, runs)
    for name, condition, loss in (("study", "Adam 1e-4", 0.7), ("changes", "logits", 0.1)):
        raw, *_ = drawn[f"_meta_loss_{name}.png"].axes
        assert raw.get_ylabel() == condition and len(drawn[f"_meta_loss_{name}.png"].axes) == 3  # one row
        assert raw.lines[0].get_ydata().tolist() == [loss] * 4
    first, *_, last = drawn["_inner_loss.png"].axes[::8]
    assert (first.get_ylabel(), last.get_ylabel()) == ("step 0", "step 4")
    assert first.lines[0].get_ydata().tolist() == untrained[0][0] and last.lines[0].get_ydata().tolist() == inner[0][0]
    assert STUDY.files(frame, None) == {}


def test_every_condition_of_the_study_is_one_change_that_a_config_takes():
    cells = dataclasses.replace(make_experiment("omniglot-maml", "laptop"), seeds=1).cells()
    assert len({cell.settings for cell in cells}) == len(experiment.CONDITIONS) == len(cells)
    configs = {cell.axes["condition"]: cell.config for cell in cells}
    for name, overrides in experiment.CONDITIONS.items():
        changed = changed_settings(configs["Adam 1e-4"], configs[name]).keys() & settings_by_name(configs[name]).keys()
        assert changed <= {each.removeprefix("--").split("=")[0] for each in overrides}
        assert len(changed) == 1 or name not in experiment.CHANGES


def test_the_figure_of_the_study_shows_every_seed_and_the_mean_gain_with_its_interval():
    rows = study_rows([0.0, 0.2])
    accuracy, gain = STUDY.figure(rows).axes
    shown = {line.get_label(): list(line.get_xdata()) for line in accuracy.lines[:2]}
    assert shown == {"before meta-training": [0.6, 0.6], "after meta-training": [0.6, 0.8]}
    mean, _, (bar,) = gain.containers[0].lines
    (summary,) = experiment.summarise(rows).itertuples()
    assert mean.get_xdata() == pytest.approx([0.1])
    assert np.ptp(bar.get_segments()[0][:, 0]) == pytest.approx(2 * summary.interval)


MISTAKES = {
    "more queries than there are": (["--learner.num_queries=7"], "but an episode has 6 queries"),
    "squashed without a context": (["--tasks.num_context=0", "--learner.inner_batch=0"], "needs a context of one size"),
    "batches without a context": (["--tasks.num_context=0"], "needs a context of one size"),
    "five classes squashed": (["--model.name=mlp", "--tasks.classes_per_task=5"], "is for two classes"),
    "the study's network in colour": (["--data.channels=3"], "is for grey images"),
    "a convolution in half precision": (["--model.dtype=bfloat16"], "'study_conv' has no setting model.dtype"),
    "images too small for it": (["--data.size=28"], "too small for model.name = 'study_conv'"),
    "images too small to be padded": (["--model.padding=SAME", "--data.size=15"], "give 16 or more"),
    "the study's settings in plain MAML": (["--learner.name=maml", "--learner.squash=true"], "has no setting learner.squash"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings, message = MISTAKES[name]
    assert main(["train", "omniglot/study", *settings]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("gpicl: error: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("changes", "name"), [((), "maml"), (("--learner.num_queries=1",), "study_maml")])
def test_a_run_of_maml_that_had_the_settings_of_the_study_loads(changes, name, tmp_path):
    config = load_config("omniglot/5way_1shot", ("--learner.name=study_maml", *changes))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config).replace('"study_maml"', '"maml"'))
    assert load_config(str(path)) == load_config("omniglot/5way_1shot", (f"--learner.name={name}", *changes))
