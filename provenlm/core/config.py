"""Parse params.yaml into frozen dataclasses, strictly.

An unknown, missing or ill-typed key raises a ConfigError that names the key and what is allowed.
"""

import dataclasses
import difflib
import io
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

from provenlm.core.errors import ConfigError
from provenlm.core.io import write_text

T = TypeVar("T")
NUM_SECTION_KEYS = 3  # table.name.section: these must stand in params.yaml
NO_DEFAULT = object()
NO_BASE_MODEL = "none"  # `base_model` of a recipe that trains from random weights
RESERVED_MODEL_FOLDERS = ("base", NO_BASE_MODEL)  # below models/: weights from elsewhere, and none

TABLE_SECTIONS: dict[str, tuple[str, ...]] = {
    "corpora": ("domain", "scrape", "filter", "dedupe", "tokenize"),
    "recipes": ("corpus", "domain", "base_model", "model", "train", "validate"),
    "reports": ("title", "recipes", "corpora", "checks"),
}
OPTIONAL_SECTIONS = {
    "corpora": ("executor",),
    "reports": ("schedule",),
}  # they do not change the output of a stage, so DVC does not track them


class Setting(NamedTuple):
    """Hold one resolved setting.

    That is its dotted key, its JSON value, and whether it equals the default.
    """

    key: str
    value: Any
    is_default: bool


@dataclasses.dataclass(frozen=True)
class Params:
    """Hold the three tables of params.yaml as plain mappings.

    Their section names have been checked.
    """

    file: str
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def names(self, table: str) -> list[str]:
        """List the entries of `table`."""
        return list(self.tables[table])

    def entry(self, table: str, name: str) -> Mapping[str, Any]:
        """Return the entry `name` of `table`. Raises ConfigError if there is none."""
        entries = self.tables[table]
        if name not in entries:
            raise ConfigError(
                f"{self.file}: {table}: no {name!r}{_did_you_mean(name, entries)}; known: {', '.join(entries) or 'none'}"
            )
        return entries[name]

    def recipes_of(self, report: str) -> list[str]:
        """List the recipes of a report.

        A family such as `music` stands for every recipe named `music/…`.
        """
        recipes: list[str] = []
        for name in self.entry("reports", report)["recipes"]:
            family = [recipe for recipe in self.tables["recipes"] if recipe.startswith(f"{name}/")]
            if not family:
                self.entry("recipes", name)
            recipes += family or [name]
        return recipes

    def base_recipes(self, recipe: str) -> list[str]:
        """List the recipes that a recipe is fine-tuned from, the nearest one first."""
        bases: list[str] = []
        while (recipe := str(self.entry("recipes", recipe)["base_model"])) in self.tables["recipes"]:
            bases.append(recipe)
        return bases

    def built_recipes(self, report: str) -> list[str]:
        """List the recipes of a report and those that they are fine-tuned from."""
        recipes = self.recipes_of(report)
        return list(dict.fromkeys([*recipes, *(base for recipe in recipes for base in self.base_recipes(recipe))]))

    def location(self, table: str, name: str, section: str) -> str:
        """Format the place of a section as error messages name it."""
        return f"{self.file}: {table}.{name}.{section}"

    def parse_section(self, table: str, name: str, section: str, config_type: type[T]) -> T:
        """Parse the section `table.name.section` as `config_type`. Raises ConfigError."""
        return parse_config(config_type, self.entry(table, name)[section], self.location(table, name, section))


def load_params(path: Path) -> Params:
    """Read params.yaml as YAML 1.2 and check its tables and section names.

    DVC reads it as YAML 1.2 too: `1e-3` is a number.
    """
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)  # DVC rejects the file, too
            raw = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path.name}: not found; run from the folder that holds dvc.yaml") from None
    except ReusedAnchorWarning as error:
        raise ConfigError(f"{path.name}: anchors must be unique, {' '.join(str(error).split())}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: not readable as YAML: {' '.join(str(error).split())}") from None
    tables = _require_mapping(raw, f"{path.name}")
    _check_keys(tables, tuple(TABLE_SECTIONS), f"{path.name}")
    for table, sections in TABLE_SECTIONS.items():
        for name, entry in _require_mapping(tables[table], f"{path.name}: {table}").items():
            location = f"{path.name}: {table}.{name}"
            _check_keys(_require_mapping(entry, location), (*sections, *OPTIONAL_SECTIONS.get(table, ())), location, list(sections))
    params = Params(path.name, tables)
    for name, recipe in tables["recipes"].items():
        corpus = params.entry("corpora", recipe["corpus"])
        if corpus["domain"] != recipe["domain"]:
            raise ConfigError(
                f"{path.name}: recipes.{name}.domain: must be {corpus['domain']!r} as in corpora.{recipe['corpus']}, "
                f"got {recipe['domain']!r}"
            )
    for name in tables["recipes"]:
        if (family := name.partition("/")[0]) != name and any(family in table for table in tables.values()):
            raise ConfigError(
                f"{path.name}: recipes.{name}: must have a family that is no other name, because audits are stored by name, got {family!r}"
            )
    for name in tables["recipes"]:
        _check_base_model(params, name)
    for name in tables["reports"]:
        _check_report(params, name)
    return params


def _check_base_model(params: Params, name: str) -> None:
    """Check the name of a recipe and the base models that it starts from."""
    recipes = params.tables["recipes"]
    if (first := name.partition("/")[0]) in RESERVED_MODEL_FOLDERS:
        raise ConfigError(f"{params.file}: recipes.{name}: must not be named {first}, because models/{first} is no recipe's model")
    chain = [name]
    while (base := str(recipes[chain[-1]]["base_model"])) in recipes:
        chain.append(base)
        if base in chain[:-1]:
            got = " -> ".join(chain)
            raise ConfigError(f"{params.location('recipes', name, 'base_model')}: must not lead back to the recipe, got {got}")
    base = str(recipes[name]["base_model"])
    if base != NO_BASE_MODEL and base not in recipes and not base.startswith("base/"):
        others = ", ".join(other for other in recipes if other != name)
        allowed = f"{NO_BASE_MODEL}, base/NAME for the folder models/base/NAME{f', or another recipe: {others}' if others else ''}"
        raise ConfigError(f"{params.location('recipes', name, 'base_model')}: must be {allowed}; got {base!r}")


def _check_report(params: Params, name: str) -> None:
    """Check the recipes and corpora of a report.

    dvc.yaml can index a list only by constants and cannot look up a recipe's corpus: reports list both, at most two of each.
    """
    recipes = params.parse_section("reports", name, "recipes", tuple[str, ...])
    if not 1 <= len(recipes) <= 2:
        location = params.location("reports", name, "recipes")
        raise ConfigError(
            f"{location}: must list one or two recipes or families (`music` stands for every `music/…`), got {len(recipes)}"
        )
    corpora = list(dict.fromkeys(params.entry("recipes", recipe)["corpus"] for recipe in params.recipes_of(name)))
    if len(corpora) > 2:
        raise ConfigError(f"{params.location('reports', name, 'recipes')}: must use one or two corpora, got {len(corpora)}")
    if params.entry("reports", name)["corpora"] != corpora:
        raise ConfigError(
            f"{params.location('reports', name, 'corpora')}: must be the corpora of its recipes: [{', '.join(corpora)}]"
        )
    if name in params.tables["corpora"] or name in params.tables["recipes"]:
        raise ConfigError(
            f"{params.file}: reports.{name}: must have a name that no corpus and no recipe has, because audits are stored by name"
        )


def override_params(path: Path, assignments: Sequence[str]) -> None:
    """Set values in the file `path`.

    Each assignment is `table.name.section.key=value`, with the value in YAML 1.2.

    Comments are preserved. A key below a section may be one that the file leaves to its default. Raises ConfigError for a table, entry or
    section that does not exist; an unknown key below them is refused when the section is parsed.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 1000
    document: Any = yaml.load(path.read_text(encoding="utf-8"))
    for assignment in assignments:
        key_path, equals, text = assignment.partition("=")
        *section_keys, last_key = key_path.strip().split(".")
        node: Any = document
        parent, parent_key, location = node, "", path.name
        for depth, key in enumerate((*section_keys, last_key)):
            if depth >= NUM_SECTION_KEYS and node is None:  # a switched-off section: `early_stopping.patience=3` switches it on
                node = parent[parent_key] = {}
            is_open = depth >= NUM_SECTION_KEYS and isinstance(node, Mapping)
            if not is_open and (not isinstance(node, Mapping) or key not in node):
                known_keys = [str(name) for name in node] if isinstance(node, Mapping) else []
                raise ConfigError(
                    f"{assignment}: {location}: no {key!r}{_did_you_mean(key, known_keys)}; known: {', '.join(known_keys) or 'none'}"
                )
            location = f"{location}: {key}" if node is document else f"{location}.{key}"
            parent, parent_key, node = node, key, node.get(key)
        if not equals or not section_keys:
            raise ConfigError(f"{assignment}: must be an override such as recipes.NAME.train.max_steps=200")
        try:
            parent[last_key] = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise ConfigError(f"{assignment}: not readable as YAML: {' '.join(str(error).split())}") from None
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    write_text(path, buffer.getvalue())


def parse_config(expected_type: type[T], value: object, location: str) -> T:
    """Parse `value` as `expected_type`.

    The type is a dataclass, scalar, literal, tuple, mapping or union.

    Raises ConfigError. A dataclass may reject a value in `__post_init__` with a ValueError "key: must be …"; the location is prefixed.
    """
    return typing.cast(T, _parse_value(expected_type, value, location))


def resolve_settings(config: object) -> list[Setting]:
    """List the settings of a parsed section by dotted key.

    The fields of nested dataclasses and mappings are settings of their own.

    A setting without a default is never a default one. Values are JSON: tuples and dataclasses in lists become lists and mappings.
    """
    return list(_resolve_settings("", config, dataclasses.MISSING))


def _resolve_settings(key: str, value: object, default: object) -> typing.Iterator[Setting]:
    prefix = f"{key}." if key else ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in (field for field in dataclasses.fields(value) if field.init):
            if type(default) is type(value):
                field_default = getattr(default, field.name)
            else:  # a section that replaces null is no default, whatever its values are
                field_default = _default_of(field) if default is dataclasses.MISSING else NO_DEFAULT
            yield from _resolve_settings(f"{prefix}{field.name}", getattr(value, field.name), field_default)
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            item_default = default.get(name, NO_DEFAULT) if isinstance(default, Mapping) else NO_DEFAULT
            yield from _resolve_settings(f"{prefix}{name}", item, item_default)
    else:
        yield Setting(key, _to_json(value), default == value)


def _default_of(field: "dataclasses.Field[Any]") -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _to_json(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, tuple | list) else value


def _parse_value(expected_type: Any, value: object, location: str, default: object = None) -> Any:
    """Parse a value.

    Keys that a mapping leaves out have their values in `default`, if that is a dataclass of the same type.
    """
    origin = get_origin(expected_type)
    if dataclasses.is_dataclass(expected_type):
        return _parse_dataclass(typing.cast(type, expected_type), value, location, default)
    if origin in (Union, types.UnionType):
        return _parse_union(get_args(expected_type), value, location, default)
    if origin is Literal:
        if value not in get_args(expected_type):
            choices = ", ".join(map(str, get_args(expected_type)))
            raise ConfigError(
                f"{location}: must be one of {choices}, got {value!r}{_did_you_mean(str(value), map(str, get_args(expected_type)))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{location}: must be a list, got {_format_value(value)}")
        return tuple(_parse_value(get_args(expected_type)[0], item, f"{location}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        item_type = get_args(expected_type)[1]
        return {key: _parse_value(item_type, item, f"{location}.{key}") for key, item in _require_mapping(value, location).items()}
    if expected_type is Any:
        return value
    if expected_type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected_type) or (isinstance(value, bool) and expected_type is not bool):
        name = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(expected_type, str(expected_type))
        raise ConfigError(f"{location}: must be {name}, got {_format_value(value)}")
    return value


def _parse_union(alternatives: tuple[Any, ...], value: object, location: str, default: object = None) -> Any:
    if value is None and type(None) in alternatives:
        return None
    alternatives = tuple(alternative for alternative in alternatives if alternative is not type(None))
    by_kind = {name: alternative for alternative in alternatives for name in _kind_values(alternative)}
    if len(alternatives) > 1 and all(map(_kind_values, alternatives)):
        mapping = _require_mapping(value, location)
        if "kind" not in mapping:
            raise ConfigError(f"{location}: missing key 'kind'; known: {', '.join(by_kind)}")
        return _parse_value(by_kind[_parse_value(Literal[tuple(by_kind)], mapping["kind"], f"{location}.kind")], value, location)
    errors = []
    for alternative in alternatives:
        try:
            return _parse_value(alternative, value, location, default)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _kind_values(config_type: Any) -> tuple[Any, ...]:
    """List the values of the literal field `kind` of a dataclass in a union."""
    hint = typing.get_type_hints(config_type).get("kind") if dataclasses.is_dataclass(config_type) else None
    return get_args(hint) if get_origin(hint) is Literal else ()


def _parse_dataclass(config_type: type, value: object, location: str, default: object = None) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config_type) if f.init}
    hints = typing.get_type_hints(config_type)
    mapping = _require_mapping(value, location)
    is_merged = type(default) is config_type and not getattr(config_type, "replaces_default", False)
    inherited = {name: getattr(default, name) for name in fields} if is_merged else {}
    defaults = {name: inherited[name] if inherited else _default_of(field) for name, field in fields.items()}
    _check_keys(mapping, tuple(fields), location, [name for name in fields if defaults[name] is dataclasses.MISSING])
    values = {key: _parse_value(hints[key], item, f"{location}.{key}", defaults[key]) for key, item in mapping.items()}
    values = {name: value for name, value in inherited.items() if name not in values} | values
    try:
        return config_type(**values)
    except ValueError as error:
        raise ConfigError(f"{location}: {error}") from None


def _check_keys(
    mapping: Mapping[str, Any], known_keys: tuple[str, ...], location: str, required_keys: list[str] | None = None
) -> None:
    for key in mapping:
        if key not in known_keys:
            raise ConfigError(
                f"{location}: unknown key {key!r}{_did_you_mean(key, known_keys)}; known: {', '.join(known_keys) or 'none'}"
            )
    for key in known_keys if required_keys is None else required_keys:
        if key not in mapping:
            raise ConfigError(f"{location}: missing key {key!r}; known: {', '.join(known_keys)}")


def _require_mapping(value: object, location: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{location}: must be a mapping of keys, got {_format_value(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{location}: keys must be text, got {key!r}")
    return value


def _did_you_mean(word: object, candidates: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(candidates), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _format_value(value: object) -> str:
    return "nothing" if value is None else f"{value!r}"
