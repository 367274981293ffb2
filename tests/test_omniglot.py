"""Omniglot: divisions that share no character, few-shot problems."""

import jax
import numpy as np
import pytest

from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.data.omniglot import Omniglot
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.registry import find, names
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import TaskDistribution, draw_episodes
from gpicl_jax.tasks.sources.images import ImageDataset, draw_classes, load

SPLITS = ("train", "validation", "test")
real = pytest.mark.skipif(
    not (data_folder() / "omniglot").is_dir(), reason="no Omniglot in TFDS_DATA_DIR; get it with: tfds build omniglot"
)


def own_classes(num_classes=7, each=6, size=2, rotations=1):
    """Every image is its own number, twice: which class and drawing it is can be read off."""
    images_NX = np.repeat(np.arange(num_classes * each, dtype=np.uint8)[:, None], size * size, axis=1)
    labels_N = np.repeat(np.arange(num_classes), each)
    return ImageDataset.build(images_NX, labels_N, mean=0.0, std=1.0, name="mine", rotations=rotations)


def few_shot_tasks(**changes):
    settings = {"length": 12, "num_context": 6, "classes_per_task": 3, "balanced": True, "entries": "identity"}
    return TaskDistribution(own_classes(), **(settings | changes))


def draw(tasks, num_tasks=50):
    keys = jax.random.split(jax.random.key(0), num_tasks)
    return jax.tree.map(lambda leaf: leaf[:, 0], jax.jit(draw_episodes)(tasks, keys, keys[:, None]))


def test_a_few_shot_problem_shows_each_class_k_times_and_asks_for_each_q_times():
    episodes = draw(few_shot_tasks())
    assert (episodes.num_context == 6).all()
    for y_L, x_LX in zip(*map(np.asarray, (episodes.y_L, episodes.x_LX)), strict=True):
        assert np.bincount(y_L[:6]).tolist() == np.bincount(y_L[6:]).tolist() == [2, 2, 2]
        assert len(np.unique(x_LX[:, 0])) == 12  # no drawing twice: no query is in the context
        own = {label: np.unique(x_LX[y_L == label, 0] // 6) for label in range(3)}
        assert all(len(classes) == 1 for classes in own.values()) and len(np.unique(list(own.values()))) == 3
    orders = {tuple(y_L) for y_L in np.asarray(episodes.y_L)}
    assert len(orders) > 40  # context and queries are shuffled, and labels are given anew in every problem


def test_two_turns_of_one_character_never_meet_and_every_turn_is_as_likely():
    source = own_classes(num_classes=16, each=2, rotations=4)
    keys = jax.random.split(jax.random.key(0), 400)
    classes_TK = np.asarray(jax.jit(jax.vmap(lambda key: draw_classes(source, key, 3)))(keys))
    assert all(len(np.unique(classes // 4)) == 3 for classes in classes_TK)
    counts = np.bincount(classes_TK.reshape(-1), minlength=16)
    assert counts.min() > 45 and counts.max() < 105  # 75 ± 8
    with pytest.raises(UserError, match="images of 4 classes, each turn of which counts as the same one"):
        TaskDistribution(source, length=10, num_context=5, classes_per_task=5, balanced=True, entries="identity")
    with pytest.raises(UserError, match="'mine' lacks images of some of the classes 4 to 7"):
        own_classes(num_classes=6, rotations=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_context": 4}, "tasks.num_context = 4 is not a multiple of 3 classes"),
        ({"length": 21, "num_context": 9}, "has a class of 6 images, but a balanced episode shows 7"),
        ({"length": 12, "num_context": 12}, "tasks.num_context = 12 leaves no query of tasks.length = 12"),
    ],
)
def test_impossible_problems_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        few_shot_tasks(**changes)


def test_more_ways_than_characters_are_refused():
    config = load_config("omniglot/5way_1shot", ("--data.train=digits", "--data.size=8", "--tasks.classes_per_task=11"))
    with pytest.raises(UserError, match="classes"):
        make_tasks(config, "train")


def test_omniglot_that_is_not_there_is_one_line(tmp_path):
    for name in (each for each in names("dataset") if issubclass(find("dataset", each), Omniglot)):
        with pytest.raises(UserError, match=r"'omniglot' is not in .*tfds build omniglot") as error:
            load(name, "train", data_dir=tmp_path)
        assert "\n" not in str(error.value)


@real
@pytest.mark.parametrize(
    ("name", "characters"),
    [
        ("omniglot/few_shot", (1100, 100, 423)),
        ("omniglot/small1", (123, 13, 659)),
        ("omniglot/small2", (141, 15, 659)),
        ("omniglot/pairs", None),
    ],
)
def test_splits_share_no_character(name, characters):
    turns = find("dataset", name).rotations
    sets = [load(name, split, size=7, channels=1, standardize=False) for split in SPLITS]
    present = [set((np.asarray(each.present_P) // turns).tolist()) for each in sets]
    assert not present[0] & present[1] and not present[0] & present[2] and not present[1] & present[2]
    if characters:
        assert tuple(map(len, present)) == characters
    for each, own in zip(sets, present, strict=True):
        assert each.num_images == 20 * turns * len(own) and (np.asarray(each.counts_C)[np.asarray(each.present_P)] == 20).all()
        assert 0 < float(each.images_NX.mean()) < 64  # ink is high, and there is little of it


@real
def test_a_turned_character_is_a_class_of_its_own():
    images = load("omniglot/few_shot", "validation", size=14, channels=1)
    assert images.rotations == 4
    first = int(images.present_P[0])
    assert first % 4 == 0
    starts = np.concatenate([[0], np.cumsum(images.counts_C)])
    by_turn = [
        np.asarray(images.images_NX[starts[first + turn] : starts[first + turn + 1]]).reshape(20, 14, 14) for turn in range(4)
    ]
    for turn in range(1, 4):
        np.testing.assert_array_equal(by_turn[turn], np.rot90(by_turn[0], turn, axes=(1, 2)))
