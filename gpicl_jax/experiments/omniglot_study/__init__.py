"""A public study of MAML on Omniglot: a model, a learner, a dataset, a source and an experiment, which the registry imports."""
