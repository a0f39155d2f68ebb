"""params.yaml in, frozen typed settings out; an unknown, missing or ill-typed key is a `UserError` that names what is known."""

import dataclasses
import difflib
import io
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from provenlm.core import io as files
from provenlm.core.errors import UserError

T = TypeVar("T")

TABLES: dict[str, tuple[str, ...]] = {
    "corpora": ("domain", "scrape", "filter", "dedupe", "tokenize"),
    "recipes": ("corpus", "domain", "net", "train", "validate"),
    "reports": ("title", "recipes", "corpora", "refresh", "bounds"),
}
OPTIONAL = {"corpora": ("engine",)}  # keys that say where work is done, not what comes of it: DVC does not look at them


@dataclasses.dataclass(frozen=True)
class Params:
    """The three tables of params.yaml as plain mappings, their outer shape checked."""

    file: str
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def names(self, table: str) -> list[str]:
        return list(self.tables[table])

    def row(self, table: str, name: str) -> Mapping[str, Any]:
        """The row `name` of `table`; UserError if there is none."""
        rows = self.tables[table]
        if name not in rows:
            raise UserError(f"{self.file}: {table}: no {name!r}{_hint(name, rows)}; known: {', '.join(rows) or 'none'}")
        return rows[name]

    def covered(self, report: str) -> list[str]:
        """The recipes of a report, a family written out: `music` is every recipe whose name begins with `music/`."""
        found: list[str] = []
        for name in self.row("reports", report)["recipes"]:
            family = [recipe for recipe in self.tables["recipes"] if recipe.startswith(f"{name}/")]
            if not family:
                self.row("recipes", name)
            found += family or [name]
        return found

    def where(self, table: str, name: str, section: str) -> str:
        return f"{self.file}: {table}.{name}.{section}"

    def settings(self, table: str, name: str, section: str, kind: type[T]) -> T:
        """The section `table.name.section`, parsed strictly by the frozen dataclass `kind`."""
        return parse(kind, self.row(table, name)[section], self.where(table, name, section))


def load(path: Path) -> Params:
    """Read `path` as YAML 1.2 (as DVC does: `1e-3` is a number) and check the outer shape of its three tables."""
    try:
        with path.open(encoding="utf-8") as file:
            raw = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError:
        raise UserError(f"{path.name}: not found; run from the folder that holds dvc.yaml") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not readable as YAML: {' '.join(str(error).split())}") from None
    tables = _mapping(raw, f"{path.name}")
    _exact(tables, tuple(TABLES), f"{path.name}")
    for table, sections in TABLES.items():
        for name, row in _mapping(tables[table], f"{path.name}: {table}").items():
            where = f"{path.name}: {table}.{name}"
            _exact(_mapping(row, where), (*sections, *OPTIONAL.get(table, ())), where, list(sections))
    params = Params(path.name, tables)
    for name, recipe in tables["recipes"].items():
        corpus = params.row("corpora", recipe["corpus"])
        if corpus["domain"] != recipe["domain"]:
            raise UserError(
                f"{path.name}: recipes.{name}.domain: {recipe['domain']!r}, but its corpus {recipe['corpus']!r} "
                f"has domain {corpus['domain']!r}; both must be the same"
            )
    for name in tables["recipes"]:
        if (family := name.partition("/")[0]) != name and any(family in table for table in tables.values()):
            raise UserError(
                f"{path.name}: recipes.{name}: its family {family!r} is the name of something else; their audits would mix"
            )
    for name in tables["reports"]:
        _check_report(params, name)
    return params


def _check_report(params: Params, name: str) -> None:
    """dvc.yaml can name only the first and the last of a list, and cannot look up a recipe's corpus: so reports say both, and briefly."""
    recipes = params.settings("reports", name, "recipes", tuple[str, ...])
    if not 1 <= len(recipes) <= 2:
        where = params.where("reports", name, "recipes")
        raise UserError(
            f"{where}: {len(recipes)} recipes; a report covers one or two, or families of them (`music` is every `music/…`)"
        )
    corpora = list(dict.fromkeys(params.row("recipes", recipe)["corpus"] for recipe in params.covered(name)))
    if len(corpora) > 2:
        raise UserError(
            f"{params.where('reports', name, 'recipes')}: they rest on {len(corpora)} corpora; a report covers one or two"
        )
    if params.row("reports", name)["corpora"] != corpora:
        raise UserError(f"{params.where('reports', name, 'corpora')}: must be those of its recipes: [{', '.join(corpora)}]")
    if name in params.tables["corpora"] or name in params.tables["recipes"]:
        raise UserError(f"{params.file}: reports.{name}: a corpus or recipe has that name; a report needs its own, for its audit")


def override(path: Path, words: Sequence[str]) -> None:
    """Set values in the file `path`: each of `words` is `table.name.section.key=value`, the value in YAML 1.2; comments stay.

    UserError for a key that is not there: what a misspelt one should have set would silently stay as it was.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 1000
    content: Any = yaml.load(path.read_text(encoding="utf-8"))
    for word in words:
        address, equals, text = word.partition("=")
        *folders, last = address.strip().split(".")
        inner: Any = content
        target, where = inner, path.name
        for key in (*folders, last):
            if not isinstance(inner, Mapping) or key not in inner:
                known = [str(name) for name in inner] if isinstance(inner, Mapping) else []
                raise UserError(f"{word}: {where}: no {key!r}{_hint(key, known)}; known: {', '.join(known) or 'none'}")
            target, inner, where = inner, inner[key], f"{where}: {key}" if inner is content else f"{where}.{key}"
        if not equals or not folders:
            raise UserError(f"{word}: an override is written like recipes.NAME.train.steps=200")
        try:
            target[last] = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise UserError(f"{word}: not readable as YAML: {' '.join(str(error).split())}") from None
    out = io.StringIO()
    yaml.dump(content, out)
    files.write_text(path, out.getvalue())


def parse(kind: type[T], value: object, where: str) -> T:
    """`value` as `kind`: a dataclass from a mapping, else a checked scalar, tuple, mapping or union.

    A dataclass may refuse a value in `__post_init__` with ValueError; its message is prefixed with `where`.
    """
    return typing.cast(T, _parse(kind, value, where))


def _parse(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, where)
    if origin in (Union, types.UnionType):
        return _parse_union(get_args(kind), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            known = ", ".join(map(str, get_args(kind)))
            raise UserError(f"{where}: {value!r} is none of: {known}{_hint(str(value), map(str, get_args(kind)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, got {_shown(value)}")
        return tuple(_parse(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        item_kind = get_args(kind)[1]
        return {key: _parse(item_kind, item, f"{where}.{key}") for key, item in _mapping(value, where).items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))
        raise UserError(f"{where}: expected {name}, got {_shown(value)}")
    return value


def _parse_union(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    named = {name: kind for kind in kinds for name in _named(kind)}
    if len(kinds) > 1 and all(map(_named, kinds)):
        mapping = _mapping(value, where)
        if "kind" not in mapping:
            raise UserError(f"{where}: missing key 'kind': one of {', '.join(named)}")
        return _parse(named[_parse(Literal[tuple(named)], mapping["kind"], f"{where}.kind")], value, where)
    errors = []
    for kind in kinds:
        try:
            return _parse(kind, value, where)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _named(kind: Any) -> tuple[Any, ...]:
    """What a dataclass's key `kind` may say, where it has one that tells it from others."""
    hint = typing.get_type_hints(kind).get("kind") if dataclasses.is_dataclass(kind) else None
    return get_args(hint) if get_origin(hint) is Literal else ()


def _parse_dataclass(kind: type, value: object, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    mapping = _mapping(value, where)
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    _exact(mapping, tuple(fields), where, required)
    values = {key: _parse(hints[key], item, f"{where}.{key}") for key, item in mapping.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _exact(mapping: Mapping[str, Any], known: tuple[str, ...], where: str, required: list[str] | None = None) -> None:
    for key in mapping:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{_hint(key, known)}; known: {', '.join(known) or 'none'}")
    for key in known if required is None else required:
        if key not in mapping:
            raise UserError(f"{where}: missing key {key!r}; known: {', '.join(known)}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping of keys, got {_shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{where}: key {key!r} is not text")
    return value


def _hint(word: object, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value!r}"
