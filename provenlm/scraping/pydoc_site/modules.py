"""A package's name in, the modules that the site shows of it out, found without importing any but the packages on the way."""

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator

STDLIB = "stdlib"
TOPICS = "pydoc_data.topics"  # the language reference by topic: pages of prose rather than a module's page

# Modules that act when they are imported, or want a display, a terminal or a file of their own. The site links to them and its
# robots.txt forbids them, so that a crawl's table says why they are missing.
SIDE_EFFECT_MODULES = {
    "antigravity": "opens a browser",
    "this": "prints",
    "idlelib": "is a program with windows",
    "tkinter": "wants a display library that may be missing",
    "turtle": "wants a display library that may be missing",
    "turtledemo": "opens windows",
    "lib2to3": "unpickles and writes its grammars",
    "ensurepip": "installs a package",
    "test": "runs tests",
}
# Private modules, tests, set-up programs and the interpreter's examples of extension modules say nothing to a reader.
HIDDEN_NAME = re.compile(r"_.*|setup|xx.*|tests?|testing|conftest|test_.*|.*_tests?|vendored|_?vendor")


def list_modules(package: str) -> list[str]:
    """Names of the modules shown of `package` (an import name, or `stdlib`), in the order of the site.

    ModuleNotFoundError if there is no such package here.
    """
    roots = _stdlib_modules() if package == STDLIB else [package]
    return [name for root in roots for name in _walk_package(root)]


def _stdlib_modules() -> list[str]:
    visible_names = [
        name for name in sorted(sys.stdlib_module_names) if name not in SIDE_EFFECT_MODULES and not HIDDEN_NAME.fullmatch(name)
    ]
    return [name for name in visible_names if importlib.util.find_spec(name) is not None]  # some exist on other systems only


def _walk_package(name: str) -> Iterator[str]:
    """`name` and, where it is a package, what is shown below it. A package that cannot be imported has nothing below it."""
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
            except Exception:  # raised by the package's own code: its page will say so
                yield f"{name}.{module_info.name}"
