"""Provide the command line: one module for each sub-command of `provenlm`."""
