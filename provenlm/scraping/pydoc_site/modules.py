"""List the documented modules of a package; only parent packages are imported."""

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator

STDLIB = "stdlib"
TOPICS = "pydoc_data.topics"  # the topics of the language reference

# Modules with side effects at import, or that need a display, a terminal or a file. The site links to them and its robots.txt
# forbids them, so that the table of a crawl says why they are missing.
SIDE_EFFECT_MODULES = {
    "antigravity": "opens a browser",
    "this": "prints",
    "idlelib": "is a graphical program",
    "tkinter": "needs a display library that may be missing",
    "turtle": "needs a display library that may be missing",
    "turtledemo": "opens windows",
    "lib2to3": "unpickles and writes its grammars",
    "ensurepip": "installs a package",
    "test": "runs tests",
}
# Private modules, tests, setup programs and the example extension modules of the interpreter are not documented.
HIDDEN_NAME = re.compile(r"_.*|setup|xx.*|tests?|testing|conftest|test_.*|.*_tests?|vendored|_?vendor")


def list_modules(package: str) -> list[str]:
    """Return the documented modules of a package in site order.

    `package` is an import name, or `stdlib`. Raises ModuleNotFoundError if it is not installed.
    """
    roots = _stdlib_modules() if package == STDLIB else [package]
    return [name for root in roots for name in _walk_package(root)]


def _stdlib_modules() -> list[str]:
    visible_names = [
        name for name in sorted(sys.stdlib_module_names) if name not in SIDE_EFFECT_MODULES and not HIDDEN_NAME.fullmatch(name)
    ]
    return [
        name for name in visible_names if importlib.util.find_spec(name) is not None
    ]  # some exist on other operating systems only


def _walk_package(name: str) -> Iterator[str]:
    """Yield `name` and its documented submodules.

    A package that cannot be imported has none.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"no package {name!r} is installed")
    yield name
    for module_info in sorted(
        pkgutil.iter_modules(spec.submodule_search_locations or []), key=lambda module_info: module_info.name
    ):
        if HIDDEN_NAME.fullmatch(module_info.name):
            continue
        if not module_info.ispkg:
            yield f"{name}.{module_info.name}"
        else:
            try:
                yield from _walk_package(f"{name}.{module_info.name}")
            except Exception:  # raised by the code of the package: its page will say so
                yield f"{name}.{module_info.name}"
