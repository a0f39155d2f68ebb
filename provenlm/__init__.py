"""Train small sequence models from scratch, with a report in which every number cites its evidence."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
