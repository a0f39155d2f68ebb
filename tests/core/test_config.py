import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError


@dataclasses.dataclass(frozen=True)
class Warmth:
    steps: int
    shape: Literal["linear", "cosine"]


@dataclasses.dataclass(frozen=True)
class Oven:
    degrees: float
    fan: bool
    racks: tuple[int, ...]
    warmth: Warmth
    label: str | None = None
    extra: Mapping[str, Warmth] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.degrees > 300:
            raise ValueError("degrees: must be at most 300")


GOOD = {"degrees": 180, "fan": True, "racks": [1, 2], "warmth": {"steps": 3, "shape": "linear"}}


def test_a_mapping_becomes_a_typed_dataclass():
    oven = config.parse_config(Oven, {**GOOD, "extra": {"a": {"steps": 1, "shape": "cosine"}}}, "f")
    assert oven == Oven(180.0, True, (1, 2), Warmth(3, "linear"), None, {"a": Warmth(1, "cosine")})
    assert isinstance(oven.degrees, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degress": 1}, "f: unknown key 'degress' (did you mean 'degrees'?); known: degrees, fan, racks, warmth, label, extra"),
        ({"fan": "yes"}, "f.fan: must be true or false, got 'yes'"),
        ({"fan": 1}, "f.fan: must be true or false, got 1"),
        ({"degrees": "hot"}, "f.degrees: must be a number, got 'hot'"),
        ({"degrees": True}, "f.degrees: must be a number, got True"),
        ({"degrees": None}, "f.degrees: must be a number, got nothing"),
        ({"racks": 3}, "f.racks: must be a list, got 3"),
        ({"racks": [1, 2.5]}, "f.racks[1]: must be a whole number, got 2.5"),
        ({"warmth": {"steps": 3}}, "f.warmth: missing key 'shape'; known: steps, shape"),
        (
            {"warmth": {"steps": 3, "shape": "linnear"}},
            "f.warmth.shape: must be one of linear, cosine, got 'linnear' (did you mean 'linear'?)",
        ),
        ({"warmth": []}, "f.warmth: must be a mapping of keys, got []"),
        ({"label": 4}, "f.label: must be text, got 4"),
        ({"extra": {"a": 1}}, "f.extra.a: must be a mapping of keys, got 1"),
        ({"degrees": 301}, "f: degrees: must be at most 300"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_key_and_allowed_values(change, message):
    with pytest.raises(ProvenlmError) as error:
        config.parse_config(Oven, {**GOOD, **change}, "f")
    assert str(error.value) == message


FILE = """
corpora:
  c: {domain: strings, scrape: {}, filter: {}, dedupe: {}, tokenize: {rate: 1e-3}}
recipes:
  r: {corpus: c, domain: strings, base_model: none, model: {}, train: {}, validate: {}}
reports:
  p: {title: T, recipes: [r], corpora: [c], schedule: null, checks: {}}
"""


def load_text(tmp_path: Path, text: str) -> config.Params:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return config.load_params(tmp_path / "params.yaml")


def test_numbers_are_parsed_as_yaml_1_2_like_dvc(tmp_path):
    assert load_text(tmp_path, FILE).entry("corpora", "c")["tokenize"]["rate"] == 0.001


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reports:", "report:", "params.yaml: unknown key 'report' (did you mean 'reports'?); known: corpora, recipes, reports"),
        (
            "filter: {}, ",
            "",
            "params.yaml: corpora.c: missing key 'filter'; known: domain, scrape, filter, dedupe, tokenize, executor",
        ),
        (
            "filter: {}",
            "filter: {}, note: x",
            "params.yaml: corpora.c: unknown key 'note'; known: domain, scrape, filter, dedupe, tokenize, executor",
        ),
        ("corpus: c", "corpus: d", "params.yaml: corpora: no 'd'; known: c"),
        (
            "corpus: c, domain: strings",
            "corpus: c, domain: text",
            "params.yaml: recipes.r.domain: must be 'strings' as in corpora.c, got 'text'",
        ),
        (
            "recipes: [r]",
            "recipes: []",
            "params.yaml: reports.p.recipes: must list one or two recipes or families (`music` stands for every `music/…`), got 0",
        ),
        ("recipes: [r]", "recipes: [q]", "params.yaml: recipes: no 'q'; known: r"),
        ("corpora: [c]", "corpora: [d]", "params.yaml: reports.p.corpora: must be the corpora of its recipes: [c]"),
        (
            "  r:",
            "  c/r:",
            "params.yaml: recipes.c/r: must have a family that is no other name, because audits are stored by name, got 'c'",
        ),
        (
            "base_model: none",
            "base_model: big",
            "params.yaml: recipes.r.base_model: must be none, base/NAME for the folder models/base/NAME; got 'big'",
        ),
        (
            "base_model: none",
            "base_model: r",
            "params.yaml: recipes.r.base_model: must not lead back to the recipe, got r -> r",
        ),
        ("  r:", "  none:", "params.yaml: recipes.none: must not be named none, because models/none is no recipe's model"),
        ("  r:", "  base/r:", "params.yaml: recipes.base/r: must not be named base, because models/base is no recipe's model"),
        (
            "  p:",
            "  r:",
            "params.yaml: reports.r: must have a name that no corpus and no recipe has, because audits are stored by name",
        ),
    ],
)
def test_an_invalid_table_is_an_error_before_any_stage_starts(tmp_path, old, new, message):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, FILE.replace(old, new))
    assert str(error.value) == message


def recipes_with_bases(**bases: str) -> str:
    """Return FILE with a recipe for each name, which starts from the given base model."""
    (row,) = [line for line in FILE.splitlines() if line.startswith("  r:")]
    rows = [row.replace("r:", f"{name}:", 1).replace("base_model: none", f"base_model: {base}") for name, base in bases.items()]
    return FILE.replace(row, "\n".join(rows))


def test_the_base_recipes_of_a_recipe_are_listed_from_the_nearest_on(tmp_path):
    params = load_text(tmp_path, recipes_with_bases(r="b", b="a", a="base/x"))
    assert [params.base_recipes(name) for name in ("r", "b", "a")] == [["b", "a"], ["a"], []]
    assert params.recipes_of("p") == ["r"] and params.built_recipes("p") == ["r", "b", "a"]


def test_base_models_that_form_a_cycle_are_an_error(tmp_path):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, recipes_with_bases(r="a", a="b", b="a"))
    assert str(error.value) == "params.yaml: recipes.r.base_model: must not lead back to the recipe, got r -> a -> b -> a"


def test_an_unknown_base_model_is_an_error_that_names_the_other_recipes(tmp_path):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, recipes_with_bases(r="c", a="none"))
    allowed = "none, base/NAME for the folder models/base/NAME, or another recipe: a"
    assert str(error.value) == f"params.yaml: recipes.r.base_model: must be {allowed}; got 'c'"


def test_a_family_expands_to_its_recipes_only(tmp_path):
    (row,) = [line for line in FILE.splitlines() if line.startswith("  r:")]
    many = "\n".join(row.replace("r:", f"{name}:", 1) for name in ("k/a", "r", "k/b", "k/c", "kind"))
    params_of_families = load_text(tmp_path, FILE.replace(row, many).replace("recipes: [r]", "recipes: [k, r]"))
    assert params_of_families.recipes_of("p") == ["k/a", "k/b", "k/c", "r"]
    assert load_text(tmp_path, FILE.replace(row, many).replace("recipes: [r]", "recipes: [k/b]")).recipes_of("p") == ["k/b"]


def test_invalid_yaml_is_a_one_line_error(tmp_path):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, "corpora: [1, 2")
    assert str(error.value).startswith("params.yaml: not readable as YAML: ")
    assert "\n" not in str(error.value)


def test_a_missing_params_yaml_is_an_error_that_says_where_to_run(tmp_path):
    with pytest.raises(ProvenlmError, match="run from the folder that holds dvc.yaml"):
        config.load_params(tmp_path / "params.yaml")


def test_an_unknown_entry_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(ProvenlmError, match="params.yaml: corpora: no 'cc' \\(did you mean 'c'\\?\\); known: c"):
        load_text(tmp_path, FILE).entry("corpora", "cc")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("recipes: # who\n  small:\n    train: {steps: 3, rate: 0.1, plateau: null} # how long\n")
    return path


def test_overrides_are_yaml_1_2_and_preserve_comments(file):
    config.override_params(
        file, ["recipes.small.train.steps=200", "recipes.small.train.rate=1e-3", "recipes.small.train.plateau={least: 2}"]
    )
    assert file.read_text() == ("recipes: # who\n  small:\n    train: {steps: 200, rate: 0.001, plateau: {least: 2}} # how long\n")


def test_an_override_may_set_what_the_file_leaves_to_its_default(file):
    config.override_params(file, ["recipes.small.train.plateau.patience=3", "recipes.small.train.optimizer.matrix.lr=0.1"])
    train = config.YAML(typ="safe").load(file)["recipes"]["small"]["train"]
    assert train == {"steps": 3, "rate": 0.1, "plateau": {"patience": 3}, "optimizer": {"matrix": {"lr": 0.1}}}


@dataclasses.dataclass(frozen=True)
class Group:
    name: str = "adamw"
    lr: float = 0.01


@dataclasses.dataclass(frozen=True)
class Band:
    replaces_default: ClassVar[bool] = True
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Bands:
    words: Band = Band(1.0, 9.0)


def test_a_section_that_is_stated_as_a_whole_keeps_no_default():
    assert config.parse_config(Bands, {"words": {"low": 2}}, "x") == Bands(Band(2.0, None))
    assert config.parse_config(Bands, {"words": {}}, "x") == Bands(Band())
    assert config.parse_config(Bands, {}, "x") == Bands(Band(1.0, 9.0))


@dataclasses.dataclass(frozen=True)
class Groups:
    matrix: Group = dataclasses.field(default_factory=lambda: Group("muon", 0.015))
    embedding: Group | None = dataclasses.field(default_factory=lambda: Group("lion", 0.012))
    other: Group | None = None


def test_a_partial_nested_section_keeps_the_other_defaults_of_its_field():
    groups = config.parse_config(Groups, {"matrix": {"lr": 0.02}, "embedding": {"lr": 0.03}, "other": {"lr": 0.04}}, "x")
    assert groups == Groups(Group("muon", 0.02), Group("lion", 0.03), Group("adamw", 0.04))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "recipes.smal.train.steps=1",
            "recipes.smal.train.steps=1: params.yaml: recipes: no 'smal' (did you mean 'small'?); known: small",
        ),
        ("recipes.small.train.steps.most=1", "params.yaml: recipes.small.train.steps: no 'most'; known: none"),
        ("recipes.small.train.steps", "must be an override such as recipes.NAME.train.max_steps=200"),
        ("recipes.small.train.steps={", "not readable as YAML"),
    ],
)
def test_an_invalid_override_is_an_error_and_writes_nothing(file, assignment, message):
    before = file.read_bytes()
    with pytest.raises(ProvenlmError) as refusal:
        config.override_params(file, ["recipes.small.train.steps=1", assignment])
    assert message in str(refusal.value)
    assert file.read_bytes() == before


@dataclasses.dataclass(frozen=True)
class Timer:
    minutes: int = 10
    label: str = "bread"


@dataclasses.dataclass(frozen=True)
class Kitchen:
    name: str
    timer: Timer = dataclasses.field(default_factory=Timer)
    spare: Timer | None = None
    racks: tuple[int, ...] = (1, 2)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def test_resolved_settings_state_key_value_and_default():
    kitchen = config.parse_config(Kitchen, {"name": "k", "timer": {"minutes": 5}, "notes": {"a": "b"}}, "f")
    assert config.resolve_settings(kitchen) == [
        ("name", "k", False),
        ("timer.minutes", 5, False),
        ("timer.label", "bread", True),
        ("spare", None, True),
        ("racks", [1, 2], True),
        ("notes.a", "b", False),
    ]


def test_a_section_that_replaces_null_is_not_default():
    kitchen = config.parse_config(Kitchen, {"name": "k", "spare": {}}, "f")
    assert ("spare.minutes", 10, False) in config.resolve_settings(kitchen)
