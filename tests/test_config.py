import dataclasses

import pytest

from gpicl_jax.config import Config, UserError, changed_settings, config_from_dict, load_config, packaged_configs, to_toml
from gpicl_jax.hyper import hyper_from


def test_toml_round_trip_keeps_every_setting(tmp_path):
    config = load_config("digits_transformer", ("--tasks.num_tasks=1024", "--optimizer.eps=1e-30", "--model.smear_keys=true"))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load_config(str(path)) == config


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_configs_load_and_open_with_a_comment(name):
    from importlib import resources

    assert load_config(name) != Config()
    assert (resources.files("gpicl_jax") / "configs" / f"{name}.toml").read_text().startswith("# ")


def test_overrides_are_toml_values_or_plain_text():
    config = load_config(
        "digits_transformer", ("--tasks.num_tasks=infinite", "--optimizer.learning_rate=1", "--model.layout=paired")
    )
    assert config.tasks.num_tasks == "infinite"
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.model.layout == "paired"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": {"lenght": 5}}, "did you mean tasks.length?"),
        ({"taks": {}}, "did you mean [tasks]?"),
        ({"train": 3}, "outside a section"),
        ({"train": {"steps": "many"}}, "expected int"),
        ({"train": {"steps": 10.5}}, "expected int"),
        ({"train": {"steps": True}}, "expected int"),
        ({"model": {"smear_keys": 1}}, "expected bool"),
        ({"optimizer": {"learning_rate": "fast"}}, "expected float"),
        ({"optimizer": {"learning_rate": 0}}, "expected more than 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "finite"),
        ({"optimizer": {"learning_rate": 1e300}}, "finite number in float32"),
        ({"optimizer": {"learning_rate": 10**400}}, "is of type int; expected float"),
        ({"optimizer": {"b1": 1.0}}, "less than 1.0"),
        ({"optimizer": {"name": "adamm"}}, "did you mean adam?"),
        ({"tasks": {"num_tasks": 0}}, "at least 1"),
        ({"tasks": {"num_tasks": 2**31}}, "at most 2147483647"),
        ({"tasks": {"num_tasks": "many"}}, "'infinite'"),
        ({"tasks": {"num_tasks": 2.0}}, "expected int"),
        ({"tasks": {"permute_labels_prob": 1.5}}, "at most 1.0"),
        ({"train": {"steps": 150}}, "not a multiple of train.chunk"),
        ({"eval": {"episodes": 1023}}, "not a multiple of eval.sequences_per_task"),
        ({"eval": {"episodes": 4}}, "fewer than 2 tasks"),
        ({"optimizer": {"schedule": "cosine", "warmup_steps": 50_000}}, "leaves nothing"),
        ({"data": {"train": []}}, "base datasets of different names"),
        ({"data": {"train": ["mnist", "mnist"]}}, "base datasets of different names"),
        ({"data": {"train": ["mnist", 3]}}, "expected str"),
        ({"data": {"train": ["mnist", "digits"], "weights": [1.0]}}, "data.weights has 1 numbers for 2 base datasets"),
        ({"data": {"weights": [0]}}, "expected more than 0"),
        ({"data": {"weights": "even"}}, "expected float"),
        ({"data": {"channels": 2}}, "data.channels = 2; allowed: 1, 3"),
        ({"data": {"size": 0}}, "at least 1"),
        ({"tasks": {"classes_per_task": 1}}, "at least 2"),
        ({"model": {"name": "mlp"}}, "cannot learn in context; give learner.name = 'finetune' or 'instance'"),
        (
            {"learner": {"name": "sgd"}},
            "learner.name = 'sgd' cannot use model.name = 'transformer'; give learner.name = 'in_context', or model.name =",
        ),
        ({"model": {"num_layers": 0}}, "model.num_layers = 0; expected at least 1"),
        ({"model": {"name": "vsml", "hidden": [4], "layout": "paired", "message_size": 1}}, "give 2 or more"),
        (
            {"model": {"name": "vsml", "smear_keys": True}},
            "model.name = 'vsml' has no setting model.smear_keys; allowed: model.width",
        ),
        ({"model": {"name": "context_query", "smear_keys": True}}, "'context_query' has no setting model.smear_keys"),
        ({"model": {"name": "encoder_decoder", "positions": "alibi"}}, "'encoder_decoder' has no setting model.positions"),
        ({"model": {"head_size": 7, "positions": "rope"}}, "model.head_size = 7 is odd"),
        ({"model": {"name": "mlp"}, "learner": {"name": "maml", "inner_rate": 0.0}}, "expected more than 0"),
        ({"learner": {"inner_rate": 0.1}}, "learner.name = 'in_context' has no setting learner.inner_rate"),
        ({"optimizer": {"weight_decay": 0.5}}, "optimizer.name = 'adam' has no setting optimizer.weight_decay"),
        ({"model": {"name": "lsmt"}}, "model.name = 'lsmt'; did you mean lstm?"),
        ({"model": {"name": 3}}, "model.name = 3 is of type int; expected str"),
    ],
)
def test_impossible_settings_are_named_in_one_line(values, message):
    with pytest.raises(UserError) as error:
        config_from_dict(values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_dataset_needs_no_list_and_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("digits_transformer", ("--data.train=mnist",)).data.train == ("mnist",)
    config = load_config(
        "digits_transformer", ('--data.train=["mnist", "./mine.npz"]', "--data.weights=[1, 2]", "--data.dir=sets")
    )
    assert config.data.train == ("mnist", str(tmp_path / "mine.npz")) and config.data.weights == (1.0, 2.0)
    assert config.data.dir == str(tmp_path / "sets")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config("./config.toml") == config


def test_changed_settings_names_both_values():
    old = Config()
    new = dataclasses.replace(old, model=dataclasses.replace(old.model, width=64))
    assert changed_settings(old, new) == {"model.width": "model.width (256 there, 64 given)"}
    assert changed_settings(old, old) == {}


def test_hyper_has_strong_types_so_that_nothing_recompiles():
    hyper = hyper_from(Config())
    assert all(hasattr(value, "dtype") for value in hyper)
    assert hyper.num_tasks == 2**31 - 1
