"""Load plug-ins by name.

Domains are in `provenlm.domains`, models in `provenlm.models`, each with a `SPEC`.

Both packages extend their path with `pkgutil.extend_path`: any folder on `sys.path` that holds `provenlm/domains/NAME` or
`provenlm/models/NAME` adds a plug-in.
"""

import importlib
from pathlib import Path
from typing import TypeVar

from provenlm.core.errors import ConfigError

SpecT = TypeVar("SpecT")
MARKERS = {"domains": "*/__init__.py", "models": "*/spec.py"}


def load_domain(name: str, stage: str, spec_type: type[SpecT]) -> SpecT:
    """Load `SPEC` of domain `name` for `stage`.

    The stage is "scrape", "filter", "dedupe", "tokenize" or "evaluate".

    Raises ConfigError, naming the known domains, if there is no such domain.
    """
    return _load("domains", name, f"{stage}.spec", spec_type)


def load_model(name: str, spec_type: type[SpecT]) -> SpecT:
    """Load `SPEC` of model `name`.

    Raises ConfigError, naming the known models, if there is no such model.
    """
    return _load("models", name, "spec", spec_type)


def plugin_names(package: str) -> list[str]:
    """List the plug-ins of `package`, "domains" or "models"."""
    folders = importlib.import_module(f"provenlm.{package}").__path__
    names = {path.parent.name for folder in folders for path in Path(folder).glob(MARKERS[package])}
    return sorted(names - {"common"})


def _load(package: str, name: str, module: str, spec_type: type[SpecT]) -> SpecT:
    available = plugin_names(package)
    if name not in available:
        raise ConfigError(f"params.yaml: {package[:-1]} must be one of {', '.join(available)}, got {name!r}")
    spec = importlib.import_module(f"provenlm.{package}.{name}.{module}").SPEC
    if not isinstance(spec, spec_type):
        path = f"provenlm/{package}/{name}/{module.replace('.', '/')}.py"
        raise TypeError(f"{path}: SPEC must be a {spec_type.__name__}, got a {type(spec).__name__}")
    return spec
