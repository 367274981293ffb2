"""Flax modules, each for one episode without a batch axis. A model of a config registers itself: see `registry`."""
