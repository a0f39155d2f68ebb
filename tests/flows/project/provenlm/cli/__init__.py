"""Extend the real package, so that this project can replace two of its commands."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
