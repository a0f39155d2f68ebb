"""Render the pydoc page of a module without details of the machine."""

import html
import inspect
import pydoc
import re
import site
import sys
import sysconfig
from types import ModuleType
from typing import Any

# The data of these modules describe a machine: their names and types are shown, their values are not.
MACHINE_MODULES = {"builtins", "os", "posixpath", "platform", "posix", "site", "sys", "sysconfig", "time", "locale", "tempfile"}
PLAIN_TYPES = (int, float, complex, bool, str, bytes, type(None))
EXTRA_CELL = re.compile(r'<td class="extra">.*?</td>', re.DOTALL)  # index, path of the file, link to a reference
MEMORY_ADDRESS = re.compile(r"(&nbsp;| )at(&nbsp;| )0x[0-9a-fA-F]+")
LINK = re.compile(r'<a href="([^"#:/]*)\.html(#[^"]*)?"([^>]*)>(.*?)</a>', re.DOTALL)


class PydocRenderer(pydoc.HTMLDoc):
    """Render pydoc pages; show the value of data only if it is a literal."""

    def docmodule(self, object: Any, name: str | None = None, mod: str | None = None, *ignored: Any) -> str:  # noqa: A002
        """Render a module and remember its name for `docother`."""
        self.module = object.__name__
        return super().docmodule(object, name, mod, *ignored)

    def docother(self, object: Any, name: str | None = None, mod: Any = None, *ignored: Any) -> str:  # noqa: A002
        """Render a value, or its type unless it is a plain literal."""
        display = self.repr(object) if self.module not in MACHINE_MODULES and _is_plain(object) else html.escape(_type_name(object))
        return f"<strong>{name}</strong> = {display}" if name else display


def defined_members(cls: type) -> list[tuple[str, str, type, Any]]:
    """Return the members that a class defines itself, without inherited ones."""
    return [
        item for item in _classify_attributes(cls) if item[2] is cls and item[0] not in ("__dict__", "__weakref__", "__module__")
    ]


_classify_attributes = pydoc.classify_class_attrs
setattr(pydoc, "classify_class_attrs", defined_members)  # noqa: B010 pydoc reads the members through this function


def render_module(module: ModuleType, urls: dict[str, str]) -> str:
    """Render the page of a module.

    Links to modules that are not in `urls` become text.
    """
    renderer = PydocRenderer()
    raw = renderer.page(pydoc.describe(module), renderer.document(module)).replace("-&amp;gt;", "-&gt;")  # pydoc escapes this twice
    return strip_machine_details(LINK.sub(lambda link: _replace_link(link, urls), EXTRA_CELL.sub("", raw)))


def render_topic(name: str, text: str) -> str:
    """Render a topic of the language reference."""
    title = f"Python: topic {html.escape(name)}"
    return f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body><pre>\n{html.escape(text)}</pre></body></html>\n'


def strip_machine_details(text: str) -> str:
    """Remove memory addresses and the folders of this interpreter from `text`."""
    for folder, name in MACHINE_FOLDERS:
        text = text.replace(folder, name)
    return MEMORY_ADDRESS.sub("", text)


def _machine_folders() -> list[tuple[str, str]]:
    """Return the folders of this interpreter with replacements, longest first."""
    paths = sysconfig.get_paths()
    names = dict.fromkeys([*sys.path, *site.getsitepackages(), paths["purelib"], paths["platlib"]], "site-packages")
    names |= {paths["stdlib"]: "lib/python", paths["platstdlib"]: "lib/python", site.getuserbase(): "user"}
    names |= {folder: "python" for folder in (sys.prefix, sys.base_prefix) if folder not in ("/usr", "/usr/local")}
    return sorted(((folder, name) for folder, name in names.items() if len(folder) > 1), key=lambda pair: -len(pair[0]))


MACHINE_FOLDERS = _machine_folders()


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(type(item) in PLAIN_TYPES and _is_plain(item) for item in value)
    text = value if type(value) is str else ""
    return type(value) in PLAIN_TYPES and not any(folder in text for folder, _ in MACHINE_FOLDERS)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _replace_link(link: re.Match[str], urls: dict[str, str]) -> str:
    target, fragment, attributes, text = link.groups()
    return f'<a href="{urls[target]}{fragment or ""}"{attributes}>{text}</a>' if target in urls else text


def summary(module: ModuleType) -> str:
    """Return the first line of the documentation of a module."""
    return (inspect.getdoc(module) or "").partition("\n")[0].strip()
