"""Compute gradients and update weights: optimizers, schedules, scaling, EMA."""
