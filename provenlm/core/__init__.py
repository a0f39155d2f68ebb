"""Define the types that every other package uses.

Imports neither torch nor a network library.
"""
