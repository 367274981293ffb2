"""How a model becomes a learning algorithm. A learner of a config registers itself: see `registry`."""
