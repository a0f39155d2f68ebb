"""Provide the layers that models are built from."""
