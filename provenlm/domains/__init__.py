"""Define the domains: one package for each kind of data.

Other folders on `sys.path` can add packages.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
