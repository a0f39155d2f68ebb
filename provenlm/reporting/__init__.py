"""Evaluate checks on audits and render reports as Markdown, HTML, JSON and cards.

Every number is a citation of an audit.
"""
