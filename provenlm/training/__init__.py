"""Train models: loop, configs, optimizers, checkpoints, callbacks, loggers."""
