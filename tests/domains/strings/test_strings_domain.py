import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import Record
from provenlm.dedup import near_duplicates
from provenlm.domains.strings.dedupe import spec as dedupe
from provenlm.domains.strings.filter import spec as filtering
from provenlm.domains.strings.scrape import spec as scrape
from provenlm.domains.strings.tokenize import spec as tokenize
from provenlm.filtering.scoring import make_filter_step

TWELVE = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY", "12345", "67890", "AAAAA", "BBBBB", "CCCCC", "A1B2C", "X9Y8Z"]


def fetch_strings(tmp_path, strings: list[str]) -> list[Record]:
    scrape_config = config.parse_config(scrape.StringsScrapeConfig, {"strings": strings}, "x")
    fetches = list(scrape.SPEC.fetch(scrape_config, tmp_path / "state", ProgressReporter("x", "addresses", None)))
    return [fetch.record for fetch in fetches if fetch.record is not None]


def test_each_string_is_a_record_in_its_order(tmp_path):
    assert [record.text for record in fetch_strings(tmp_path, TWELVE)] == TWELVE
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("strings", [[], ["a", ""]])
def test_no_strings_and_an_empty_one_are_refused(tmp_path, strings):
    with pytest.raises(ProvenlmError, match="strings"):
        fetch_strings(tmp_path, strings)


def fetch_file(path, content: str) -> list[str]:
    path.write_text(content, encoding="utf-8")
    scrape_config = config.parse_config(scrape.StringsScrapeConfig, {"file": str(path)}, "x")
    fetches = scrape.SPEC.fetch(scrape_config, path.parent / "state", ProgressReporter("x", "strings", None))
    return [fetch.record.text for fetch in fetches if fetch.record is not None]


def test_strings_are_read_from_a_json_list_and_from_json_lines(tmp_path):
    assert fetch_file(tmp_path / "strings.json", '["a\\nb", "ü"]') == ["a\nb", "ü"]
    assert fetch_file(tmp_path / "strings.jsonl", '"a\\nb"\n\n"ü"\n') == ["a\nb", "ü"]


@pytest.mark.parametrize("content", ["[]", '["a", ""]', '["a", 1]', '{"a": "b"}', '["a"'])
def test_a_file_without_a_list_of_strings_is_refused_by_name(tmp_path, content):
    with pytest.raises(ProvenlmError, match=r"strings.json: must be"):
        fetch_file(tmp_path / "strings.json", content)


def test_a_missing_file_of_strings_is_refused_by_name(tmp_path):
    with pytest.raises(ProvenlmError, match=r"missing.json: must be a readable file"):
        list(
            scrape.SPEC.fetch(
                scrape.StringsScrapeConfig(file=str(tmp_path / "missing.json")), tmp_path, ProgressReporter("x", "x", None)
            )
        )


@pytest.mark.parametrize("section", [{}, {"strings": ["a"], "file": "b.json"}])
def test_strings_or_a_file_must_be_given(section):
    with pytest.raises(ProvenlmError, match="strings or file must be given, got (neither|both)"):
        config.parse_config(scrape.StringsScrapeConfig, section, "x")


def test_nothing_is_filtered(tmp_path):
    filter_config = config.parse_config(filtering.StringsFilterConfig, {}, "x")
    decisions = make_filter_step(filtering.SPEC, filter_config).apply(fetch_strings(tmp_path, TWELVE))
    assert [(item.drop_reason, item.score) for item in decisions] == [(None, 1.0)] * 12


def test_equal_strings_are_duplicates_and_similar_ones_are_not(tmp_path):
    dedupe_config = config.parse_config(dedupe.StringsDedupeConfig, {}, "x")
    items = [record.with_metadata(score=1.0) for record in fetch_strings(tmp_path, ["AB CD", "AB  CD", "AB CD"])]
    spec = dedupe.SPEC
    result = near_duplicates.find_duplicates(
        LocalExecutor(lambda: items), spec.normalize, spec.ngram_hashes(dedupe_config), spec.jaccard_threshold(dedupe_config)
    )
    assert result.kept_mask.tolist() == [True, True, False]


def test_the_twelve_strings_have_a_vocabulary_of_37(tmp_path):
    tokenize_config = config.parse_config(tokenize.StringsTokenizeConfig, {}, "x")
    tokenizer = tokenize.SPEC.train(tokenize_config, lambda: fetch_strings(tmp_path, TWELVE))
    assert tokenizer.vocab_size == 37
    assert tokenize.SPEC.val_fraction(tokenize_config) == 0


def test_a_saved_tokenizer_decodes_the_strings(tmp_path):
    records = fetch_strings(tmp_path, TWELVE)
    tokenize.SPEC.train(config.parse_config(tokenize.StringsTokenizeConfig, {}, "x"), lambda: records).save(tmp_path / "tokenizer")
    tokenizer = tokenize.SPEC.load(tmp_path / "tokenizer")
    assert [tokenizer.decode(ids.tolist()).decode() for ids in tokenizer.encode(records)] == TWELVE


def test_holding_everything_out_is_refused():
    with pytest.raises(ProvenlmError, match="val_fraction must be >= 0 and < 1, got 1.0"):
        config.parse_config(tokenize.StringsTokenizeConfig, {"val_fraction": 1.0}, "x")
