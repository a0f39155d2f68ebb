"""Provide a toy domain of binary event files for the contract tests."""
