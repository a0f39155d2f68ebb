"""Train small sequence models from scratch and report on them.

Every number in a report cites its evidence.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
