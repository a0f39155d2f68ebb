"""Provide what all models share: spec, layers, losses and Hugging Face export."""
