"""A run's folder: its lock, its records, its checkpoints."""
