"""Evaluate a trained model: probes that record metrics, and what they share."""
