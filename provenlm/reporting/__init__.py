"""Audits and bounds in; checks, a verdict and a page in Markdown and HTML out. No number is written here: every one is cited."""
