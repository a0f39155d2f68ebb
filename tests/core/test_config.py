import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

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
        ({"fan": "yes"}, "f.fan: expected true or false, got 'yes'"),
        ({"fan": 1}, "f.fan: expected true or false, got 1"),
        ({"degrees": "hot"}, "f.degrees: expected a number, got 'hot'"),
        ({"degrees": True}, "f.degrees: expected a number, got True"),
        ({"degrees": None}, "f.degrees: expected a number, got nothing"),
        ({"racks": 3}, "f.racks: expected a list, got 3"),
        ({"racks": [1, 2.5]}, "f.racks[1]: expected a whole number, got 2.5"),
        ({"warmth": {"steps": 3}}, "f.warmth: missing key 'shape'; known: steps, shape"),
        (
            {"warmth": {"steps": 3, "shape": "linnear"}},
            "f.warmth.shape: 'linnear' is none of: linear, cosine (did you mean 'linear'?)",
        ),
        ({"warmth": []}, "f.warmth: expected a mapping of keys, got []"),
        ({"label": 4}, "f.label: expected text, got 4"),
        ({"extra": {"a": 1}}, "f.extra.a: expected a mapping of keys, got 1"),
        ({"degrees": 301}, "f: degrees: must be at most 300"),
    ],
)
def test_a_wrong_value_is_refused_in_the_users_words(change, message):
    with pytest.raises(ProvenlmError) as error:
        config.parse_config(Oven, {**GOOD, **change}, "f")
    assert str(error.value) == message


FILE = """
corpora:
  c: {domain: strings, scrape: {}, filter: {}, dedupe: {}, tokenize: {rate: 1e-3}}
recipes:
  r: {corpus: c, domain: strings, net: {}, train: {}, validate: {}}
reports:
  p: {title: T, recipes: [r], corpora: [c], refresh: null, bounds: {}}
"""


def load_text(tmp_path: Path, text: str) -> config.Params:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return config.load_params(tmp_path / "params.yaml")


def test_numbers_are_read_as_yaml_1_2_as_dvc_reads_them(tmp_path):
    assert load_text(tmp_path, FILE).entry("corpora", "c")["tokenize"]["rate"] == 0.001


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reports:", "report:", "params.yaml: unknown key 'report' (did you mean 'reports'?); known: corpora, recipes, reports"),
        (
            "filter: {}, ",
            "",
            "params.yaml: corpora.c: missing key 'filter'; known: domain, scrape, filter, dedupe, tokenize, engine",
        ),
        (
            "filter: {}",
            "filter: {}, note: x",
            "params.yaml: corpora.c: unknown key 'note'; known: domain, scrape, filter, dedupe, tokenize, engine",
        ),
        ("corpus: c", "corpus: d", "params.yaml: corpora: no 'd'; known: c"),
        (
            "corpus: c, domain: strings",
            "corpus: c, domain: text",
            "params.yaml: recipes.r.domain: 'text', but its corpus 'c' has domain 'strings'; both must be the same",
        ),
        (
            "recipes: [r]",
            "recipes: []",
            "params.yaml: reports.p.recipes: 0 recipes; a report covers one or two, or families of them (`music` is every `music/…`)",
        ),
        ("recipes: [r]", "recipes: [q]", "params.yaml: recipes: no 'q'; known: r"),
        ("corpora: [c]", "corpora: [d]", "params.yaml: reports.p.corpora: must be those of its recipes: [c]"),
        ("  r:", "  c/r:", "params.yaml: recipes.c/r: its family 'c' is the name of something else; their audits would mix"),
        ("  p:", "  r:", "params.yaml: reports.r: a corpus or recipe has that name; a report needs its own, for its audit"),
    ],
)
def test_a_wrong_table_is_refused_before_any_stage_begins(tmp_path, old, new, message):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, FILE.replace(old, new))
    assert str(error.value) == message


def test_a_family_stands_for_its_recipes_and_for_no_other(tmp_path):
    (row,) = [line for line in FILE.splitlines() if line.startswith("  r:")]
    many = "\n".join(row.replace("r:", f"{name}:", 1) for name in ("k/a", "r", "k/b", "k/c", "kind"))
    params_of_families = load_text(tmp_path, FILE.replace(row, many).replace("recipes: [r]", "recipes: [k, r]"))
    assert params_of_families.recipes_of("p") == ["k/a", "k/b", "k/c", "r"]
    assert load_text(tmp_path, FILE.replace(row, many).replace("recipes: [r]", "recipes: [k/b]")).recipes_of("p") == ["k/b"]


def test_a_file_that_is_not_yaml_is_refused_in_one_line(tmp_path):
    with pytest.raises(ProvenlmError) as error:
        load_text(tmp_path, "corpora: [1, 2")
    assert str(error.value).startswith("params.yaml: not readable as YAML: ")
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(ProvenlmError, match="run from the folder that holds dvc.yaml"):
        config.load_params(tmp_path / "params.yaml")


def test_an_unknown_subject_names_the_known_ones(tmp_path):
    with pytest.raises(ProvenlmError, match="params.yaml: corpora: no 'cc' \\(did you mean 'c'\\?\\); known: c"):
        load_text(tmp_path, FILE).entry("corpora", "cc")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("recipes: # who\n  small:\n    train: {steps: 3, rate: 0.1, plateau: null} # how long\n")
    return path


def test_overrides_set_values_as_yaml_1_2_and_keep_what_people_wrote(file):
    config.override_params(
        file, ["recipes.small.train.steps=200", "recipes.small.train.rate=1e-3", "recipes.small.train.plateau={least: 2}"]
    )
    assert file.read_text() == ("recipes: # who\n  small:\n    train: {steps: 200, rate: 0.001, plateau: {least: 2}} # how long\n")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "recipes.smal.train.steps=1",
            "recipes.smal.train.steps=1: params.yaml: recipes: no 'smal' (did you mean 'small'?); known: small",
        ),
        ("recipes.small.train.steps.most=1", "params.yaml: recipes.small.train.steps: no 'most'; known: none"),
        ("recipes.small.train.steps", "an override is written like recipes.NAME.train.steps=200"),
        ("recipes.small.train.steps={", "not readable as YAML"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused_and_nothing_is_written(file, word, message):
    before = file.read_bytes()
    with pytest.raises(ProvenlmError) as refusal:
        config.override_params(file, ["recipes.small.train.steps=1", word])
    assert message in str(refusal.value)
    assert file.read_bytes() == before
