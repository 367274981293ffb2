"""What a config can name: each name is its own class with its own settings, and a broken class is refused at once."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from gpicl_jax import registry
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.cli import main
from gpicl_jax.config import changed_settings, config_from_dict, load_config, settings_digest, to_toml
from gpicl_jax.data.stored import Dataset
from gpicl_jax.experiments.comparison import Trials
from gpicl_jax.experiments.engine import make_experiment
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.hyper import compiled_part, hyper_from
from gpicl_jax.learners.base import Learner
from gpicl_jax.learners.in_context import InContext
from gpicl_jax.models.base import SequenceModel
from gpicl_jax.optimizers import Optimizer
from gpicl_jax.registry import ROOMS, about, find, names, register, section_class, settings_of
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError, setting
from gpicl_jax.tasks import Episode
from gpicl_jax.tasks.sources.base import Source
from tests.helpers import TINY, tiny_config

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    for room in ROOMS:
        names(room)
        monkeypatch.setitem(registry._KNOWN, room, dict(registry._KNOWN[room]))
    monkeypatch.setattr(registry, "_IMPORTED", [])
    yield
    section_class.cache_clear()


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_is_an_object_of_its_own_class_and_moves_otherwise_than_the_others(name):
    def moved(name):
        config = tiny_config(f"--optimizer.name={name}", "--optimizer.learning_rate=0.1")
        optimizer = make_optimizer(config)
        assert type(optimizer) is find("optimizer", name)
        made = optimizer(hyper_from(config))
        params = {"w": jnp.array([[1.0, 2.0], [3.0, -1.0]])}
        state = made.init(params)
        for slope in (0.3, -0.7):
            updates, state = made.update({"w": slope * params["w"] ** 2}, state, params)
        return updates["w"].tolist()

    others = [moved(other) for other in names("optimizer") if other not in (name, "adam", "adamw")]
    assert moved(name) not in others


SECTIONS = [(room, name) for room in ("model", "learner", "optimizer") for name in names(room)]


@pytest.mark.parametrize(("room", "name"), SECTIONS)
def test_a_setting_that_the_class_lacks_is_refused(room, name):
    """All settings that any class of the room has: none is accepted and ignored."""
    own = set(settings_of(find(room, name)))
    every = {key for other in names(room) for key in settings_of(find(room, other))}
    for key in every - own:
        with pytest.raises(UserError, match=rf"{room}.name = '{name}' has no setting {room}.{key}"):
            config_from_dict({room: {"name": name, key: 1}})


def test_a_published_default_stays():
    """A digest of settings leaves defaults out: with another default, published results would claim other settings."""
    there = {}
    for section, found in Config().sections.items():
        kinds = {f"{section}.{name}": settings_of(find(section, name)) for name in (names(section) if section in ROOMS else ())}
        kinds = kinds or {section: {each.name: each for each in dataclasses.fields(found)}}
        there |= {f"{kind}.{key}": each.default for kind, fields in kinds.items() for key, each in fields.items()}
    published = json.loads(Path(__file__).with_name("published_defaults.json").read_text())
    changed = {name: there.get(name) for name, value in published.items() if json.loads(json.dumps(there.get(name))) != value}
    assert not changed


PUBLISHED = [
    path
    for path in sorted(RESULTS.glob("*/*.csv"))
    if "settings" in path.read_text().split("\n")[0].split(",") and path.parent.name != "features"  # whose files are not here
]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_results_are_of_the_grids_and_settings_that_the_code_has(path):
    experiment = make_experiment(path.parent.name.replace("_", "-"), path.stem.removesuffix("_trials"))
    if experiment.name == "comparison":
        experiment = experiment.with_options(seconds=120.0)  # as its README says
    if path.stem.endswith("_trials"):
        experiment = Trials(name="comparison", scale=path.stem, of=experiment)
    cells = experiment.cells()
    Table(path, experiment.axes, cells).check()
    assert cells[0].settings in path.read_text()


def test_a_digest_is_of_values_alone():
    config = load_config("digits")
    assert settings_digest(config) == settings_digest(load_config("digits", ("--data.dir=elsewhere",)))
    assert settings_digest(config) != settings_digest(load_config("digits", ("--model.width=33",)))
    assert settings_digest(config) == "970ea5b7"


def test_a_name_that_is_no_text_is_one_line():
    for name in (1, True, float("nan"), [1]):
        with pytest.raises(UserError, match=r"model.name = .*"):
            config_from_dict({"model": {"width": 8}}, {"model": {"name": name}})


def test_what_is_traced_is_said_by_the_setting():
    config = load_config("digits", ("--train.seed=3", "--tasks.num_tasks=infinite"))
    assert set(hyper_from(config)._fields) == {
        *("num_tasks", "permute_labels_prob", "permute_labels_anneal", "learning_rate", "eps", "seed"),
        *("active_classes", "images_per_class", "rise_at"),
    }
    assert hyper_from(config).num_tasks == 2**31 - 1
    assert "eps" not in hyper_from(load_config("digits", ("--optimizer.name=sgd",)))._fields
    assert compiled_part(config) == compiled_part(load_config("digits", ("--optimizer.learning_rate=1",)))
    assert compiled_part(config) != compiled_part(load_config("digits", ("--tasks.num_tasks=7",)))  # finite is another program


def test_another_name_keeps_the_settings_that_both_have_and_no_fault_is_lost(tmp_path):
    config = tiny_config("--model.name=lstm")
    assert (config.model.width, config.learner.name) == (16, "in_context") and not hasattr(config.model, "num_heads")
    assert tiny_config("--model.name=equivariant_transformer").learner.name == "context_query"
    (tmp_path / "wrong.toml").write_text("[model]\nnum_haeds = 2\n")
    with pytest.raises(
        UserError, match=r"model.name = 'transformer' has no setting model.num_haeds; did you mean model.num_heads"
    ):
        load_config(str(tmp_path / "wrong.toml"), ("--model.name=lstm",))


def test_a_base_is_one_level_deep(tmp_path):
    (tmp_path / "below.toml").write_text('[model]\nname = "lstm"\nwidth = 5\n')
    (tmp_path / "above.toml").write_text('base = "below.toml"\n[train]\nsteps = 700\n')
    (tmp_path / "third.toml").write_text('base = "above.toml"\n[train]\nsteps = 800\n')
    config = load_config(str(tmp_path / "above.toml"))
    assert (config.model.width, config.train.steps) == (5, 700)
    with pytest.raises(UserError, match=r"its base .*above.toml has a base too"):
        load_config(str(tmp_path / "third.toml"))
    (tmp_path / "lost.toml").write_text('base = "none.toml"\n[train]\nsteps = 800\n')
    with pytest.raises(UserError, match=r"no config file .*none.toml"):
        load_config(str(tmp_path / "lost.toml"))


OLD = """
[data]
train = ["digits"]
[tasks]
length = 20
[model]
name = "{name}"
width = 16
num_layers = {layers}
num_heads = {heads}
head_size = 32
mlp_width = 0
layout = "{layout}"
label_scale = 1.0
smear_keys = false
positions = "learned"
activation = "gelu"
memory_size = 16
message_size = 8
micro_ticks = 2
padding = "VALID"
grid_size = 8
dtype = "float32"
[learner]
name = "in_context"
inner_optimizer = "adam"
inner_rate = 0.001
[optimizer]
name = "adam"
weight_decay = 0.0
momentum = 0.95
[train]
steps = 100
chunk = 100
remat = true
remat_blocks = false
"""


@pytest.mark.parametrize(
    ("name", "layers", "layout", "found"),
    [
        ("lstm", 4, "shifted", {"name": "lstm", "width": 16}),
        ("transformer", 4, "context_query", {"name": "context_query", "remat": False}),
        ("vsml", 3, "shifted", {"name": "vsml", "hidden": (16, 16), "remat": True}),
    ],
)
def test_a_config_that_an_older_run_wrote_loads(tmp_path, name, layers, layout, found):
    path = tmp_path / "config.toml"
    path.write_text(OLD.format(name=name, layers=layers, heads=8, layout=layout))
    config = load_config(str(path))
    assert found.items() <= dataclasses.asdict(config.model).items()
    assert changed_settings(config, load_config(str(path))) == {} and make_learner(config)
    path.write_text(to_toml(config))
    assert load_config(str(path)) == config
    path.write_text(OLD.format(name=name, layers=layers, heads=2, layout=layout))  # which an LSTM ignored
    assert load_config(str(path)).model.name == config.model.name
    path.write_text("[model]\nname = 'lstm'\nnum_heads = 8\n")  # of a person, who must be told
    with pytest.raises(UserError, match=r"model.name = 'lstm' has no setting model.num_heads"):
        load_config(str(path))


class TooWide(SequenceModel):
    """A logit too many."""

    def __call__(self, x_LX, y_L):
        return jnp.zeros((len(y_L), self.num_classes + 1))


def test_logits_of_another_shape_are_refused():
    learner = InContext(TooWide(num_classes=10), 4, 5)
    episode = Episode(jnp.zeros((5, 4)), jnp.zeros(5, jnp.int32), jnp.int32(5))
    with pytest.raises(UserError, match=r"TooWide returned logits of shape \[5, 11\]; expected \[L, C\] = \[5, 10\]"):
        learner.predict({}, episode, key=None)


class Half(SequenceModel):
    def __call__(self, x_LX, y_L):
        return x_LX


class Wanting(SequenceModel):
    extra: int

    def __call__(self, x_LX, y_L):
        return x_LX

    def state_size(self, num_features, length):
        return 0


def dataclass_of(called, base, /, **members):
    """A class of one room whose settings and attributes are given; it does all that its room needs."""
    methods = {method: lambda self, *_: None for method in base.needs}
    kinds = {"name": str, "rank": int}
    annotations = {key: kinds[key] for key in members if key in kinds}
    made = type(called, (base,), {"__annotations__": annotations, **methods, **members})
    return dataclasses.dataclass(frozen=True, kw_only=True)(made)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (Half, "half", "has no state_size, which each model needs"),
        (Wanting, "wanting", "has a field extra that nobody gives"),
        (type("Lazy", (Optimizer,), {}), "lazy", "has no update"),
        (type("Empty", (Dataset,), {}), "empty", "has no read, which each dataset needs"),
        (type("Idle", (Learner,), {}), "idle", "has no init, predict, state_size"),
        (type("Plain", (find("optimizer", "adam"),), {"b3": setting(1.0, "x")}), "plain", "is no dataclass"),
        (find("model", "lstm"), "transformer", "have this name; rename one"),
        (dataclass_of("Named", Optimizer, name=setting("x", "y")), "named", "has a setting called name"),
        (dataclass_of("Wrong", Optimizer, rank=setting("eight", "y")), "wrong", "the default of rank = 'eight' is of type str"),
        (dataclass_of("Split", Source, has_splits=True, num_features=4), "split", "has splits, but no open"),
        (dataclass_of("Named", Source, num_features=4), "train", "cannot be a source of this name, which is a section"),
        (dataclass_of("Named", Source, num_features=4), "model", "cannot be a source of this name, which is a section"),
    ],
)
def test_a_class_that_cannot_work_is_refused_when_it_is_registered(kind, name, message):
    with pytest.raises(UserError, match=message) as error:
        register(name)(kind)
    assert "\n" not in str(error.value)


MINE = """
import dataclasses
import optax
from gpicl_jax.optimizers import Optimizer
from gpicl_jax.registry import register
from gpicl_jax.settings import setting

@register("mine_lion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    b1: float = setting(0.9, "decay of the mean", minimum=0.0, below=1.0)

    def update(self, rate, hyper):
        return optax.lion(rate, b1=self.b1)
"""


def test_a_file_of_the_users_own_trains_and_is_needed_again(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text(MINE.replace("import optax", "import optacks"))
    run, mine = ["--run-dir", str(tmp_path / "run")], ["--import", str(tmp_path / "mine.py")]
    name = ["--optimizer.name=mine_lion"]
    assert main(["train", TINY, *name, *run]) == 2
    assert "optimizer.name = 'mine_lion'" in capsys.readouterr().err
    assert main(["train", TINY, *name, *run, "--import", str(tmp_path / "broken.py")]) == 2
    assert "broken.py: ModuleNotFoundError: No module named 'optacks'" in capsys.readouterr().err
    assert main(["train", TINY, *name, "--optimizer.b1=0.8", "--train.steps=10", *run, *mine]) == 0
    assert f"evaluate {tmp_path / 'run'} --import {tmp_path / 'mine.py'})" in capsys.readouterr().out
    registry._KNOWN["optimizer"].pop("mine_lion")
    registry._IMPORTED.clear()
    section_class.cache_clear()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "--import FILE.py" in error and error.count("\n") == 1
    assert main(["evaluate", str(tmp_path / "run"), *mine]) == 0
    assert load_config(str(tmp_path / "run" / "config.toml")).optimizer.b1 == 0.8


SINES = """
import dataclasses
import jax
import jax.numpy as jnp
from gpicl_jax.registry import register
from gpicl_jax.settings import setting
from gpicl_jax.tasks.sources.base import Examples, Source

@register("sines")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sines(Source):
    num_features: int = dataclasses.field(metadata={"static": True})
    rate: float = setting(1.0, "waves in a unit of x", above=0.0, static=True)

    name = "sines"
    num_classes = 2

    def draw(self, task_key, key, drawing):
        x_LX = jax.random.normal(key, (drawing.length, self.num_features))
        turn_X = jax.random.normal(task_key, (self.num_features,))
        labels_L = (jnp.sin(self.rate * x_LX @ turn_X) > 0).astype(jnp.int32)
        return Examples(x_LX, labels_L, jnp.float32(0), jnp.float32(1))
"""


def test_a_source_of_the_users_own_has_a_section_of_its_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SINES)
    command = ["train", TINY, "--data.train=sines", "--train.steps=10", "--import", str(tmp_path / "mine.py")]
    assert main([*command, "--sines.rate=2.0", "--run-dir", str(tmp_path / "run")]) == 0
    assert "sines (fresh examples)" in capsys.readouterr().out
    config = load_config(str(tmp_path / "run" / "config.toml"))
    assert config.sources[0].rate == 2.0 and load_config(str(tmp_path / "run" / "config.toml")) == config
    assert settings_digest(config) != settings_digest(load_config(TINY, ("--data.train=sines", "--train.steps=10")))
    for wrong, message in (
        ("--sines.rate=0", "sines.rate = 0.0; expected more than 0.0"),
        ("--sines.rat=1", "unknown setting sines.rat; did you mean sines.rate?"),
        ("--data.train=digits", "[sines] holds settings of a source, but data.train = ['digits']"),
    ):
        assert main([*command, "--sines.rate=2.0", wrong, "--run-dir", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err


def test_the_page_of_settings_has_all_of_them(capsys):
    for room, name in SECTIONS:
        assert main(["settings", f"{room}.{name}"]) == 0
        page = capsys.readouterr().out
        assert all(f"{room}.{key} " in page for key in settings_of(find(room, name)))
    assert main(["settings"]) == 0 and "equivariant_transformer" in capsys.readouterr().out
    assert main(["settings", "modle"]) == 2 and "did you mean model?" in capsys.readouterr().err


@pytest.mark.parametrize("ends", ["sys.exit()", "sys.exit(3)", "raise SystemExit"])
def test_an_imported_file_that_ends_python_is_one_line(ends, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(f"import sys\n{ends}\n")
    assert main(["settings", "--import", str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    assert f"--import {tmp_path / 'mine.py'}: it ends Python by sys.exit" in error and error.count("\n") == 1


def test_a_name_of_any_kind_has_a_page(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SINES)
    mine = ["--import", str(tmp_path / "mine.py")]
    for name in ("sines", "source.sines"):
        assert main(["settings", name, *mine]) == 0
        assert "sines.rate  float, 1.0: waves in a unit of x; above 0" in capsys.readouterr().out
    for room, name in (*SECTIONS, ("dataset", "digits"), ("source", "random"), ("experiment", "scaling")):
        for given in (name, f"{room}.{name}"):
            assert main(["settings", given]) == 0
            assert f"{room} {name!r}: {about(find(room, name))}" in capsys.readouterr().out
    assert main(["settings", "experiment"]) == 0 and "experiment 'scaling'" in capsys.readouterr().out
    assert main(["settings", "sgd"]) == 0 and "learner.inner_rate" in (page := capsys.readouterr().out)
    assert "optimizer.momentum" in page  # both have this name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "classes = 2",
            "classes = 1",
            "labels from 0 to 1; expected 0 to 0, as num_classes = 1 and tasks.classes_per_task = 10",
        ),
        ("(jnp.int32)", "(jnp.int32) - 1", "draws labels from -1 to 0; expected 0 to 1, as num_classes = 2"),
        ("(jnp.int32)", "(jnp.float32)", "float32 labels [12]; expected [L, X] = [12, 64] and integers [L]"),
        ("s(x_LX", "s(x_LX[:, 1:]", "draws inputs [12, 63] and int32 labels [12]; expected [L, X] = [12, 64]"),
    ],
)
def test_what_a_source_draws_is_looked_at_before_it_trains(old, new, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SINES.replace(old, new))
    command = ["train", TINY, "--data.train=sines", "--import", str(tmp_path / "mine.py"), "--run-dir", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "'sines' draws" in error and message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_setting_is_never_shared_by_two_sections_that_are_traced():
    traced = [
        key for room, name in SECTIONS for key, each in settings_of(find(room, name)).items() if each.metadata.get("traced")
    ]
    assert not set(traced) & {"num_tasks", "permute_labels_prob", "permute_labels_anneal", "seed"}
    assert setting(1, "x").metadata == {"about": "x"}
