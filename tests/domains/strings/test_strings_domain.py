import pytest

from provenlm.core import config
from provenlm.core.errors import UserError
from provenlm.core.executors.local import Here
from provenlm.core.progress import Progress
from provenlm.core.records import Record
from provenlm.dedup import near_duplicates
from provenlm.domains.strings.dedupe import spec as dedupe
from provenlm.domains.strings.filter import spec as filtering
from provenlm.domains.strings.scrape import spec as scrape
from provenlm.domains.strings.tokenize import spec as tokenize
from provenlm.filtering.scoring import judging

TWELVE = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY", "12345", "67890", "AAAAA", "BBBBB", "CCCCC", "A1B2C", "X9Y8Z"]


def fetched(tmp_path, strings: list[str]) -> list[Record]:
    settings = config.parse(scrape.Settings, {"strings": strings}, "x")
    fetches = list(scrape.SPEC.fetch(settings, tmp_path / "state", Progress("x", "addresses", None)))
    return [fetch.record for fetch in fetches if fetch.record is not None]


def test_each_string_is_a_record_in_its_order(tmp_path):
    assert [record.text for record in fetched(tmp_path, TWELVE)] == TWELVE
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("strings", [[], ["a", ""]])
def test_no_strings_and_an_empty_one_are_refused(tmp_path, strings):
    with pytest.raises(UserError, match="strings: at least one, and none of them empty"):
        fetched(tmp_path, strings)


def test_nothing_is_filtered(tmp_path):
    settings = config.parse(filtering.Settings, {}, "x")
    judged = judging(filtering.SPEC, settings).do(fetched(tmp_path, TWELVE))
    assert [(item.reason, item.score) for item in judged] == [(None, 1.0)] * 12


def test_equal_strings_are_twins_and_similar_ones_are_not(tmp_path):
    settings = config.parse(dedupe.Settings, {}, "x")
    items = [record.with_facts(score=1.0) for record in fetched(tmp_path, ["AB CD", "AB  CD", "AB CD"])]
    face = dedupe.SPEC
    found = near_duplicates.find(Here(lambda: items), face.canonical, face.shingles(settings), face.threshold(settings))
    assert found.kept.tolist() == [True, True, False]


def test_the_twelve_strings_of_the_ladder_have_a_vocabulary_of_37(tmp_path):
    settings = config.parse(tokenize.Settings, {"held_out": 0, "end": False}, "x")
    codec = tokenize.SPEC.learn(settings, lambda: fetched(tmp_path, TWELVE))
    assert codec.vocabulary == 37
    assert tokenize.SPEC.held_out(settings) == 0


def test_a_saved_codec_gives_the_strings_back(tmp_path):
    records = fetched(tmp_path, TWELVE)
    tokenize.SPEC.learn(config.parse(tokenize.Settings, {"held_out": 0, "end": False}, "x"), lambda: records).save(
        tmp_path / "codec"
    )
    codec = tokenize.SPEC.load(tmp_path / "codec")
    assert [codec.decode(ids.tolist()).decode() for ids in codec.encode(records)] == TWELVE


def test_holding_everything_out_is_refused():
    with pytest.raises(UserError, match="held_out: a share from 0 to below 1"):
        config.parse(tokenize.Settings, {"held_out": 1.0, "end": False}, "x")
