"""Provide a tiny autoencoder, a model without next-token logits, for the contract tests."""
