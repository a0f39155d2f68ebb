"""Estimate compute-optimal sizes and plan models."""
