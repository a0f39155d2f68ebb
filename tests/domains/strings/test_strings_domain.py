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
    with pytest.raises(ProvenlmError, match="strings: at least one, and none of them empty"):
        fetch_strings(tmp_path, strings)


def test_nothing_is_filtered(tmp_path):
    filter_config = config.parse_config(filtering.StringsFilterConfig, {}, "x")
    decisions = make_filter_step(filtering.SPEC, filter_config).apply(fetch_strings(tmp_path, TWELVE))
    assert [(item.drop_reason, item.score) for item in decisions] == [(None, 1.0)] * 12


def test_equal_strings_are_twins_and_similar_ones_are_not(tmp_path):
    dedupe_config = config.parse_config(dedupe.StringsDedupeConfig, {}, "x")
    items = [record.with_metadata(score=1.0) for record in fetch_strings(tmp_path, ["AB CD", "AB  CD", "AB CD"])]
    spec = dedupe.SPEC
    result = near_duplicates.find_duplicates(
        LocalExecutor(lambda: items), spec.normalize, spec.ngram_hashes(dedupe_config), spec.jaccard_threshold(dedupe_config)
    )
    assert result.kept_mask.tolist() == [True, True, False]


def test_the_twelve_strings_of_the_ladder_have_a_vocabulary_of_37(tmp_path):
    tokenize_config = config.parse_config(tokenize.StringsTokenizeConfig, {"held_out": 0, "end": False}, "x")
    tokenizer = tokenize.SPEC.train(tokenize_config, lambda: fetch_strings(tmp_path, TWELVE))
    assert tokenizer.vocab_size == 37
    assert tokenize.SPEC.val_fraction(tokenize_config) == 0


def test_a_saved_codec_gives_the_strings_back(tmp_path):
    records = fetch_strings(tmp_path, TWELVE)
    tokenize.SPEC.train(
        config.parse_config(tokenize.StringsTokenizeConfig, {"held_out": 0, "end": False}, "x"), lambda: records
    ).save(tmp_path / "codec")
    tokenizer = tokenize.SPEC.load(tmp_path / "codec")
    assert [tokenizer.decode(ids.tolist()).decode() for ids in tokenizer.encode(records)] == TWELVE


def test_holding_everything_out_is_refused():
    with pytest.raises(ProvenlmError, match="held_out: a share from 0 to below 1"):
        config.parse_config(tokenize.StringsTokenizeConfig, {"held_out": 1.0, "end": False}, "x")
