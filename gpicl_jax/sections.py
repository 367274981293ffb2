"""The settings of a run, section by section: frozen dataclasses with meanings, limits and defaults.

Defaults follow the paper (arXiv 2212.04458: width 256, permuted labels) and, where it is silent, its authors' code.
Floor 1: imports only what one setting is, from `settings`.
"""

from dataclasses import dataclass

from gpicl_jax.settings import setting

INFINITE = "infinite"
MAX_TASKS = 2**31 - 1
EQUIVARIANT = "equivariant_transformer"
EQUIVARIANT_ABLATIONS = (
    "equivariant_without_rotations",
    "equivariant_without_label_permutations",
    "equivariant_without_context_permutations",
)
GRAM_MODELS = (EQUIVARIANT, *EQUIVARIANT_ABLATIONS[1:])  # to which rotations of the inputs are all the same
SEQUENCE_MODELS = (
    EQUIVARIANT,
    *EQUIVARIANT_ABLATIONS,
    "transformer",
    "encoder_decoder",
    "lstm",
    "outer_product_lstm",
    "fast_weights",
    "vsml",
    "vsml_without_symmetries",
)
POSITIONS = ("learned", "rope", "alibi")
GRAM = "gram"
ENTRIES = ("normal", "integer", GRAM)
IDENTITY = "identity"
ATTENTION_MODELS = (EQUIVARIANT, *EQUIVARIANT_ABLATIONS, "transformer", "encoder_decoder")
CONTEXT_QUERY = "context_query"
IN_CONTEXT = "in_context"
ONLINE_LEARNERS = ("sgd", "finetune", "maml_online")
MLP_LEARNERS = ("instance", *ONLINE_LEARNERS, "maml")
CONV_MODELS = ("few_shot_conv", "study_conv")
STUDY_CONV_PIXELS = {"VALID": 76, "SAME": 16}  # a side, at least, by model.padding
ROW_MODELS = ("mlp", *CONV_MODELS)  # which see one example alone, or a set of them at once


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    train: tuple[str, ...] = setting(("mnist",), "base datasets of meta-training: names, ./files.npz, ./folders")
    weights: tuple[float, ...] = setting((), "chance of a task to be of each of them; [] is equal chances", above=0.0)
    size: int = setting(14, "height and width of the images after resizing", minimum=1, maximum=512)
    channels: int = setting(1, "1 is grey, 3 is colour", choices=(1, 3))
    features: int = setting(0, "numbers of an example where data.train has `features`; 0: images", minimum=0, maximum=2**16)
    standardize: bool = setting(True, "pixels to mean 0, deviation 1 of the training images; false: 0 … 255 to 0 … 1")
    dir: str = setting("", "folder of prepared TFDS sets; '' is TFDS_DATA_DIR, or TFDS's own default")

    @property
    def num_features(self) -> int:
        """X, the numbers of an example."""
        return self.features or self.size**2 * self.channels


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    num_tasks: int | str = setting(INFINITE, "size of the task set", minimum=1, maximum=MAX_TASKS, word=INFINITE)
    tasks_per_step: int = setting(16, "tasks drawn for every meta-training step", minimum=1)
    sequences_per_task: int = setting(32, "episodes of each of these tasks", minimum=1)
    length: int = setting(100, "examples of an episode", minimum=2)
    num_context: int = setting(0, "examples before the queries; 0: each row is predicted from those before it", minimum=0)
    classes_per_task: int = setting(10, "labels of a task; a set with more classes lends it so many", minimum=2)
    clutter: float = setting(
        0.0,
        "most that another image weighs, added to each one in meta-training, e.g. 2; infinite tasks; 0: none",
        minimum=0,
        maximum=10,
    )
    feature_scales: float = setting(
        0.0,
        "most that log-scales of the features deviate from 0 in meta-training, e.g. 1.5; infinite tasks; 0: none",
        minimum=0,
        maximum=3,
    )
    balanced: bool = setting(False, "whether an episode shows every class equally often (else: iid)")
    permute_labels_prob: float = setting(1.0, "chance that a task permutes its labels", minimum=0.0, maximum=1.0)
    permute_labels_anneal: int = setting(0, "steps in which that chance rises to 1 in meta-training; 0: it stays", minimum=0)
    entries: str = setting(
        "normal",
        "law of the matrices of meta-training; identity: none, anywhere",
        choices=(*ENTRIES, IDENTITY),
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: str = setting("transformer", "architecture", choices=(*SEQUENCE_MODELS, *ROW_MODELS))
    width: int = setting(256, "size of the residual stream, of an LSTM, of hidden layers; filters", minimum=1)
    num_layers: int = setting(4, "blocks; hidden layers of an MLP; convolutions; layers of VSML", minimum=0)
    num_heads: int = setting(8, "heads of attention, or of an outer-product LSTM", minimum=1)
    head_size: int = setting(32, "size of a key, query and value; of a head of an outer-product LSTM", minimum=1)
    mlp_width: int = setting(
        0, "hidden units of a block's MLP, 0: its model's multiple of width; units between VSML's layers", minimum=0
    )
    layout: str = setting("shifted", "what a token holds", choices=("shifted", "paired", CONTEXT_QUERY))
    label_scale: float = setting(1.0, "value of the hot entry of a label in a token", above=0.0)
    smear_keys: bool = setting(False, "mix each key with the one before it")
    positions: str = setting("learned", "how a transformer knows the order of its tokens", choices=POSITIONS)
    activation: str = setting("gelu", "non-linearity of the MLPs", choices=("gelu", "relu"))
    memory_size: int = setting(16, "size of the keys and values of fast weights", minimum=1)
    message_size: int = setting(8, "size of VSML's messages", minimum=1)
    micro_ticks: int = setting(2, "LSTM steps of VSML for each example", minimum=1)
    padding: str = setting("VALID", "of study_conv; SAME for images below 76 pixels a side", choices=("VALID", "SAME"))
    grid_size: int = setting(8, "VSML without symmetries is a grid of so many by so many LSTMs", minimum=1)
    dtype: str = setting("float32", "precision inside the blocks", choices=("float32", "bfloat16"))


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    name: str = setting(IN_CONTEXT, "how the model learns a task", choices=(IN_CONTEXT, *MLP_LEARNERS))
    inner_optimizer: str = setting("adam", "of sgd, finetune and maml_online", choices=("sgd", "adam", "adamw"))
    inner_rate: float = setting(1e-3, "step size of the inner loop", above=0.0)
    inner_steps: int = setting(5, "gradient steps of maml on the context", minimum=0)
    inner_batch: int = setting(0, "examples of each of these steps; 0: the whole context", minimum=0)
    first_order: bool = setting(False, "whether maml leaves out the derivative of the inner gradient")
    learn_rates: bool = setting(False, "whether maml meta-learns a step size for each array of weights")
    head_only: bool = setting(False, "whether maml adapts the last layer alone (ANIL)")
    num_queries: int = setting(0, "queries that maml's meta-loss counts; 0: all", minimum=0)
    squash: bool = setting(False, "whether maml's losses squash their logit to 0 … 1 first, as the study does by mistake")
    unit_gradients: bool = setting(False, "whether maml scales each episode's meta-gradient to norm 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    name: str = setting("adam", "meta-optimiser", choices=("adam", "adamw", "muon", "sgd", "sign"))
    learning_rate: float = setting(1e-3, "step size (its peak, under a schedule)", above=0.0)
    schedule: str = setting("constant", "course of the step size after the warm-up", choices=("constant", "cosine"))
    warmup_steps: int = setting(0, "steps of linear warm-up", minimum=0)
    b1: float = setting(0.9, "decay of the mean (all but sgd)", minimum=0.0, below=1.0)
    b2: float = setting(0.999, "Adam's decay of the square", minimum=0.0, below=1.0)
    eps: float = setting(1e-8, "eps of adam, adamw and muon, outside the root", minimum=0.0)
    eps_root: float = setting(1e-8, "Adam's eps, inside the root", minimum=0.0)
    weight_decay: float = setting(0.0, "decoupled weight decay (adamw, muon)", minimum=0.0)
    momentum: float = setting(0.95, "momentum (sgd, muon)", minimum=0.0, below=1.0)
    clip: float = setting(0.0, "largest global norm of the gradient; 0 is no clipping", minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = setting(50_000, "meta-training steps", minimum=1)
    chunk: int = setting(100, "steps of one compiled call", minimum=1)
    seed: int = setting(0, "seed of weights, tasks and images", minimum=0, maximum=2**31 - 1)
    validate_every: int = setting(1000, "steps between validations, each with a checkpoint", minimum=1)
    patience: int = setting(0, "validations in a row without a lower loss that end a run; 0: it goes on", minimum=0)
    accumulate: int = setting(1, "parts of a step's tasks, worked through one after another to save memory", minimum=1)
    remat: bool = setting(True, "recompute each example of VSML and each inner step in the backward pass, to save memory")
    remat_blocks: bool = setting(False, "recompute each block of a Transformer in the backward pass, to save memory")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    episodes: int = setting(1024, "meta-test episodes of each kind of task", minimum=2)
    sequences_per_task: int = setting(4, "meta-test episodes of one task", minimum=1)
    seed: int = setting(0, "seed of the validation and the test tasks", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    to: str = setting("", "where metrics go beside metrics.jsonl", choices=("", "tensorboard", "wandb"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, one attribute per TOML section.

    Example:
      >>> Config().tasks.length
      100
    """

    data: DataConfig = DataConfig()
    tasks: TasksConfig = TasksConfig()
    model: ModelConfig = ModelConfig()
    learner: LearnerConfig = LearnerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()


# What a resumed run may change: nothing that its weights depend on, but for the rounding of accumulate and remat.
FREE_ON_RESUME = (
    "data.dir",
    "train.validate_every",
    "train.patience",
    "train.accumulate",
    "train.remat",
    "train.remat_blocks",
    "eval.episodes",
    "log.to",
)


def final_permute_prob(config: Config) -> float:
    """Chance of a task to permute its labels at the end of meta-training, and so in validation and meta-test.

    Example:
      >>> final_permute_prob(Config(tasks=TasksConfig(permute_labels_prob=0.1, permute_labels_anneal=500)))
      1.0
    """
    return 1.0 if config.tasks.permute_labels_anneal else config.tasks.permute_labels_prob


def has_queries(model: ModelConfig) -> bool:
    """Whether a model learns from a context in any order, and predicts queries.

    Example:
      >>> has_queries(ModelConfig(name=EQUIVARIANT)), has_queries(ModelConfig())
      (True, False)
    """
    return model.name in (EQUIVARIANT, *EQUIVARIANT_ABLATIONS) or model.layout == CONTEXT_QUERY


def learner_name(config: Config) -> str:
    """What tables call the learner of `config`: its algorithm, or the architecture that is the algorithm.

    Example:
      >>> learner_name(Config())
      'transformer'
    """
    if config.learner.name == "instance":
        return config.model.name
    if config.learner.name != IN_CONTEXT:
        return config.learner.name
    return CONTEXT_QUERY if config.model.layout == CONTEXT_QUERY else config.model.name
