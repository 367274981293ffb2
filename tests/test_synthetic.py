"""The sources of synthetic tables: classes, columns and noise are within their settings, and labels depend on features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from gpicl_jax.build import make_learner
from gpicl_jax.config import load_config
from gpicl_jax.registry import find, names
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import TaskDistribution, draw_episodes, randomness
from gpicl_jax.tasks.sources import tabular
from gpicl_jax.tasks.sources.base import Drawing
from tests.helpers import tiny_config

SOURCES = [name for name in names("source") if issubclass(find("source", name), tabular.Tabular)]
X, C, L, T = 12, 6, 300, 48
DRAWING = Drawing(length=L, classes_per_task=10, balanced=False)
TASK_KEYS = jax.random.split(jax.random.key(0), T)
KEYS = jax.random.split(jax.random.key(1), (T, 2))


def of(name, label_noise):
    return find("source", name)(X, num_classes=C, imbalance=4.0, label_noise=label_noise)


@pytest.fixture(scope="module", params=SOURCES)
def drawn(request):
    """Two episodes of each of many tasks, of sources with label noise of at most 0, 0.3 and 1."""
    draw = jax.vmap(lambda noise, *keys: of(request.param, noise).draw(*keys, DRAWING), (0, None, None))
    noise_3 = jnp.array([0.0, 0.3, 1.0])
    drawn = jax.device_get(jax.jit(jax.vmap(jax.vmap(draw, (None, None, 0)), (None, 0, 0)))(noise_3, TASK_KEYS, KEYS))
    return request.param, *(jax.tree.map(lambda leaf, number=number: leaf[:, :, number], drawn) for number in range(3))


def neighbour_and_chance(examples):
    """Accuracy on a task's second episode of the neighbours in its first one, and of a draw of its labels, float [T] each."""
    shares_T2C = np.apply_along_axis(np.bincount, -1, examples.labels_L, minlength=C) / L
    accuracy_T = [
        KNeighborsClassifier(5).fit(x[0], y[0]).score(x[1], y[1])
        for x, y in zip(examples.pixels_LX, examples.labels_L, strict=True)
    ]
    return np.array(accuracy_T), shares_T2C.prod(axis=1).sum(axis=-1)


def test_there_are_four_of_them():
    assert SOURCES == ["gaussian_mixture", "gaussian_process", "random_mlp", "random_tree"]


def test_labels_depend_on_features_by_one_law_for_all_episodes_of_a_task_and_at_noise_1_not_at_all(drawn):
    _, clean, some, noise = drawn
    accuracy_T, chance_T = neighbour_and_chance(clean)
    assert (accuracy_T - chance_T).mean() > 0.2 and (accuracy_T > chance_T).mean() > 0.9
    assert chance_T.mean() < neighbour_and_chance(some)[0].mean() < accuracy_T.mean()
    accuracy_T, chance_T = neighbour_and_chance(noise)
    gain_T = accuracy_T - chance_T
    assert abs(gain_T.mean()) < 4 * gain_T.std() / T**0.5 < 0.05


def test_label_noise_changes_labels_alone_and_no_more_than_its_setting(drawn):
    _, clean, some, noise = drawn
    np.testing.assert_array_equal(clean.pixels_LX, some.pixels_LX)
    np.testing.assert_array_equal(clean.pixels_LX, noise.pixels_LX)
    changed_T = (clean.labels_L != some.labels_L).mean(axis=(1, 2))
    assert 0 < changed_T.mean() < 0.3 and changed_T.max() < 0.3 + 4 * (0.21 / (2 * L)) ** 0.5
    assert (clean.labels_L != noise.labels_L).mean() > 0.4


def test_classes_and_their_shares_are_within_the_settings(drawn):
    _, clean, _, noise = drawn
    number_T = []
    for labels_2L, noise_2L in zip(clean.labels_L, noise.labels_L, strict=True):
        counts_K = np.bincount(noise_2L.reshape(-1))  # which follow the shares that are asked for
        number_T.append(len(counts_K))
        assert labels_2L.min() >= 0 and labels_2L.max() < len(counts_K) and len(np.unique(labels_2L)) >= 2
        assert counts_K.max() <= 4 * counts_K.min() + 4 * (5 * 2 * L / 2) ** 0.5
        # thresholds from 256 rows: a deviation of at most 0.03
        shares_K = np.bincount(labels_2L.reshape(-1), minlength=len(counts_K)) / (2 * L)
        assert np.abs(shares_K - counts_K / (2 * L)).max() < 5 * (0.25 / tabular.REFERENCE_ROWS + 0.25 / L) ** 0.5
    assert set(number_T) == set(range(2, C + 1))


def test_features_are_active_in_all_episodes_or_0_and_standardised(drawn):
    _, clean, *_ = drawn
    is_active_T2X = (clean.pixels_LX != 0).any(axis=2)
    np.testing.assert_array_equal(is_active_T2X[:, 0], is_active_T2X[:, 1])
    number_T = is_active_T2X[:, 0].sum(axis=1)
    assert number_T.min() == 1 and number_T.max() > X // 2 and len({tuple(row) for row in is_active_T2X[:, 0]}) > T // 2
    assert set(np.unique(clean.mean)) == {0} and set(np.unique(clean.std)) == {1}
    square_T = (clean.pixels_LX**2).mean(axis=(1, 2)).sum(axis=-1) / number_T
    assert abs(square_T.mean() - 1) < 0.1 and square_T.min() > 0.5 and square_T.max() < 2
    mean_TX = clean.pixels_LX.mean(axis=(1, 2))
    assert np.abs(mean_TX).mean() < 0.1
    deviations = [x[..., on[0]].std(axis=(0, 1)) for x, on in zip(clean.pixels_LX, is_active_T2X, strict=True)]
    assert max(np.log(each).std() for each in deviations if len(each) > 3) > 0.5  # other scales


def test_a_task_is_the_same_under_vmap_and_scan(drawn):
    name, *_, some, _ = drawn
    source = of(name, 0.3)
    scanned = jax.jit(lambda *keys: jax.lax.map(lambda pair: source.draw(*pair, DRAWING), keys))(TASK_KEYS[:4], KEYS[:4, 0])
    np.testing.assert_array_equal(scanned.labels_L, some.labels_L[:4, 0])
    np.testing.assert_allclose(scanned.pixels_LX, some.pixels_LX[:4, 0], rtol=1e-4, atol=1e-5)


def test_shares_have_the_ratio_that_is_allowed():
    keys = jax.random.split(jax.random.key(0), 2000)
    shares_TC = np.asarray(jax.jit(jax.vmap(lambda key: tabular.draw_shares(key, C, 4.0)))(keys))
    number_T = (shares_TC > 0).sum(axis=1)
    np.testing.assert_allclose(shares_TC.sum(axis=1), 1, rtol=1e-5)
    assert (np.bincount(number_T) > 2000 / 5 * 0.8).tolist() == [False, False, True, True, True, True, True]
    ratio_T = shares_TC.max(axis=1) / np.where(shares_TC > 0, shares_TC, np.inf).min(axis=1)
    assert 3.5 < ratio_T.max() <= 4.001 and ratio_T.min() < 1.1
    assert (shares_TC[:, :2] > 0).all() and abs((shares_TC[:, 0] > shares_TC[:, 1]).mean() - 0.5) < 0.05


@pytest.mark.parametrize("num_features", [1, 2, 1000])
def test_columns_are_from_one_to_all_and_useful_ones_are_active(num_features):
    keys = jax.random.split(jax.random.key(0), 1000)
    draw = jax.jit(jax.vmap(lambda key: tabular.draw_columns(key, num_features, 0.5)))
    active_TX, useful_TX = map(np.asarray, draw(keys))
    number_T = active_TX.sum(axis=1)
    assert number_T.min() == 1 and 0.9 * num_features <= number_T.max() <= num_features
    assert not (useful_TX & ~active_TX).any() and (useful_TX.sum(axis=1) >= np.maximum(number_T / 2, 1)).all()
    assert num_features == 1 or (useful_TX.sum(axis=1) < number_T).any()


def test_a_decision_list_gives_each_class_its_share():
    shares_C = jnp.array([0.125, 0.5, 0.25, 0.125, 0.0])
    values_NC = jax.random.normal(jax.random.key(0), (256, 5))
    labels_N = (values_NC >= tabular.decision_list(values_NC, shares_C)[None]).argmax(axis=1)
    assert np.bincount(labels_N).tolist() == [32, 128, 64, 32]


def test_half_of_the_tasks_mix_their_features():
    def correlation(key):
        return jnp.corrcoef(tabular.correlated_normals(key, 6)(key, 1000), rowvar=False)

    correlation_TXX = np.abs(np.asarray(jax.jit(jax.vmap(correlation))(jax.random.split(jax.random.key(0), 64))))
    mean_T = correlation_TXX[:, ~np.eye(6, dtype=bool)].mean(axis=1)
    assert 0.3 < (mean_T < 0.05).mean() < 0.7 and mean_T.max() > 0.3


def test_gram_tasks_take_those_of_one_active_feature_too():
    tasks = TaskDistribution(of("gaussian_process", 0.3), length=10, entries="gram")
    episodes = jax.jit(draw_episodes)(tasks, TASK_KEYS, KEYS[:, :1])
    assert episodes.x_LX.shape == (T, 1, 10, 10) and np.isfinite(episodes.x_LX).all()


@pytest.mark.parametrize("name", SOURCES)
def test_mistakes_are_one_line(name):
    for wrong, message in (
        ("label_noise=1.5", "label_noise = 1.5; expected at least 0.0 and at most 1.0"),
        ("imbalance=0.5", "imbalance = 0.5; expected at least 1.0"),
        ("num_classes=1", "num_classes = 1; expected at least 2"),
        ("useless=-1.0", "useless = -1.0; expected at least 0.0"),
        ("feature_scale=1.0", f"unknown setting {name}.feature_scale; did you mean {name}.feature_scales?"),
    ):
        with pytest.raises(UserError) as error:
            tiny_config(f"--data.train={name}", f"--{name}.{wrong}")
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=rf"^'{name}' draws classes of unequal shares; set tasks.balanced = false$"):
        TaskDistribution(find("source", name)(X), length=20, balanced=True, num_context=10)


def test_the_config_of_tables_mixes_all_of_them():
    config = load_config("configs/tabular.toml")
    assert sorted(config.data.train) == SOURCES and {each.name for each in config.sources} == set(SOURCES)
    assert make_learner(config).num_context == 0  # one is drawn for each episode
    assert dataclasses.astuple(config.source("random_tree")) and config.data.num_features == config.data.features


@pytest.mark.parametrize("name", SOURCES)
def test_no_key_is_used_twice(name, monkeypatch):
    """A law has many keys. fold_in(key, i) is the key number i of a split of it."""
    used, threefry = [], randomness.threefry

    def recorded(key, *counters):
        used.append(tuple(jax.random.key_data(key).tolist()))
        return threefry(key, *counters)

    monkeypatch.setattr(randomness, "threefry", recorded)
    with jax.disable_jit():
        of(name, 0.5).draw(TASK_KEYS[0], KEYS[0, 0], DRAWING._replace(length=8))
    assert len(used) > 10 and len(set(used)) == len(used)
