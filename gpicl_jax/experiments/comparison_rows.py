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
# The curriculum, and what a row needs beside it: tokens that hold a whole example, and a memory that is bounded.
RECALL_FIRST = ("--tasks.active_classes=2", "--tasks.images_per_class=1")
_PAIRED = "--model.layout=paired"
WITH_CURRICULUM = {
    "lstm": (_PAIRED,),
    "outer_product_lstm": (_PAIRED,),
    "fast_weights": (_PAIRED, "--model.bounded=true"),
    "vsml": (_PAIRED,),
    "vsml_without_symmetries": (_PAIRED,),
}
# The rows of which no seed had left the plateau after 120 s without it.
STUCK = ("transformer_paper", "encoder_decoder", *WITH_CURRICULUM)
