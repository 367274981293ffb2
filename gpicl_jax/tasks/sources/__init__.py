"""Where the examples of an episode come from. A source of a config registers itself: see `registry`."""
