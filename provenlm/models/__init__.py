"""Define the model architectures, one package each.

Other folders on `sys.path` can add packages.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
