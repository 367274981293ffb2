"""The rows of the comparison: the settings that each tries, and what it needs beside a curriculum."""


def _rates(setting: str, *rates: str) -> tuple[str, ...]:
    return tuple(f"--{setting}={rate}" for rate in rates)


_ADAM = _rates("optimizer.learning_rate", "1e-3", "3e-3", "1e-2")
_MUON = _rates("optimizer.learning_rate", "2e-2", "1e-2", "4e-2")
_ONLINE = _rates("learner.inner_rate", "1e-2", "3e-2", "1e-1")
# Row: what it tries in place of a setting of its config; as many for every row, and the first changes nothing.
ROWS: dict[str, tuple[str, ...]] = {
    "transformer": _MUON,
    "transformer_paper": _ADAM,
    "sgd": _ONLINE,
    "maml_online": _ONLINE,
    "lstm": _ADAM,
    "vsml": _rates("optimizer.learning_rate", "1e-2", "3e-3", "3e-2"),
    "mlp": _ADAM,
    "context_query": _MUON,
    "outer_product_lstm": _ADAM,
    "fast_weights": _ADAM,
    "finetune": _ONLINE,
    "maml": _rates("learner.inner_rate", "0.3", "0.1", "1.0"),
    "encoder_decoder": _MUON,
    "vsml_without_symmetries": _ADAM,
    "sgd_from_zeros": _ONLINE,
    "maml_online_hidden": _ONLINE,
    "finetune_hidden": _ONLINE,
    "equivariant": _rates("optimizer.learning_rate", "3e-3", "1e-3", "1e-2"),
}
# The curriculum begins with recall of two images. VSML, to which all labels are alike, begins with all classes. Rows that learn
# nothing within an episode of meta-training would stay on the first rung for ever.
RECALL_FIRST = ("--tasks.active_classes=2", "--tasks.images_per_class=1")
_CURRICULA = {"vsml": RECALL_FIRST[1:]} | dict.fromkeys(("mlp", "finetune", "finetune_hidden", "sgd", "sgd_from_zeros"), ())
# What a row has beside the curriculum (results/comparison says what was tried): tokens that hold a whole example, a memory that
# is bounded, Muon or smaller batches where they leave the plateau earlier.
_PAIRED, _FEW = "--model.layout=paired", "--tasks.tasks_per_step=8"
_BY_MUON = ("--optimizer.name=muon", "--optimizer.learning_rate=2e-2")
BESIDE: dict[str, tuple[str, ...]] = {
    "transformer_paper": (_FEW,),
    "lstm": (_PAIRED, *_BY_MUON),
    "outer_product_lstm": (_PAIRED,),
    "fast_weights": (_PAIRED, "--model.bounded=true"),
    "encoder_decoder": (),
    "transformer": (),
    "context_query": (),
    "vsml": (_PAIRED,),
    "vsml_without_symmetries": (_PAIRED, *_BY_MUON, _FEW, "--model.grid_size=4"),
}


def tries(row: str, beside: bool) -> tuple[str, ...]:
    """Returns the rates that a row tries, with what it has `beside` the curriculum or without."""
    return _MUON if beside and _BY_MUON[0] in BESIDE.get(row, ()) else ROWS[row]


def curriculum(row: str) -> tuple[str, ...]:
    """Returns the curriculum of a row."""
    return _CURRICULA.get(row, RECALL_FIRST)
