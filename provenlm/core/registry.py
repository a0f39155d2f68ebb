"""Load plug-ins by name: domains from `provenlm/domains`, models from `provenlm/models`, each with a `SPEC`."""

import importlib
from pathlib import Path
from typing import TypeVar

from provenlm.core.errors import ConfigError

PACKAGE_DIR = Path(__file__).resolve().parents[1]
SpecT = TypeVar("SpecT")
MARKERS = {"domains": "*/__init__.py", "models": "*/spec.py"}


def load_domain(name: str, stage: str, spec_type: type[SpecT]) -> SpecT:
    """Load `SPEC` of domain `name` for `stage` ("scrape", "filter", "dedupe", "tokenize", "evaluate").

    Raises ConfigError, naming the known domains, if there is no such domain.
    """
    return _load("domains", name, f"{stage}.spec", spec_type)


def load_model(name: str, spec_type: type[SpecT]) -> SpecT:
    """Load `SPEC` of model `name`. Raises ConfigError, naming the known models, if there is no such model."""
    return _load("models", name, "spec", spec_type)


def plugin_names(package: str) -> list[str]:
    """List the plug-ins of `package`, "domains" or "models"."""
    return sorted(path.parent.name for path in (PACKAGE_DIR / package).glob(MARKERS[package]) if path.parent.name != "common")


def _load(package: str, name: str, module: str, spec_type: type[SpecT]) -> SpecT:
    if name not in plugin_names(package):
        raise ConfigError(f"params.yaml: {package[:-1]} must be one of {', '.join(plugin_names(package))}, got {name!r}")
    spec = importlib.import_module(f"provenlm.{package}.{name}.{module}").SPEC
    if not isinstance(spec, spec_type):
        path = f"provenlm/{package}/{name}/{module.replace('.', '/')}.py"
        raise TypeError(f"{path}: SPEC must be a {spec_type.__name__}, got a {type(spec).__name__}")
    return spec
