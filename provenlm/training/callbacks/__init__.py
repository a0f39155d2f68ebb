"""Observe every update and every step of training; one small file each.

Callbacks may ask to skip an update, stop, roll back or lower the learning rates.
"""
