import sys

import pytest

from provenlm.core.errors import ConfigError
from provenlm.core.records import Record
from provenlm.domains.text.filter.quality_rules import FineWebQuality
from provenlm.domains.text.filter.spec import QualityRulesConfig, TextFilterConfig, make_batch_filter

SENTENCE = "The keeper of the lamp said that {} of the ships have gone with the wind to the north."
TEXTS = {
    "prose": "\n".join(SENTENCE.format(word) for word in ("one", "two", "six", "none", "most", "many", "some")),
    "list": "\n".join(f"- item {index}" for index in range(80)),
    "repeated": "\n".join([SENTENCE.format("all")] * 12),
    "code": "\n".join(f"def f{index}(x): return {{x: [{index}, x[{index}]]}}" for index in range(20)),
    "marks": "\n".join(f"to ( be ) - that [ {index} ] , ; : with the ." for index in range(30)),
    "empty": " \n",
}


def test_a_missing_datatrove_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match="decided_by: datatrove needs `pip install"):
        make_batch_filter(TextFilterConfig(quality_rules=QualityRulesConfig(decided_by="datatrove")))


def test_thresholds_that_datatrove_would_not_see_are_refused():
    rules = QualityRulesConfig(decided_by="datatrove", fineweb=FineWebQuality(short_line_thr=0.5))
    with pytest.raises(ConfigError, match=r"quality_rules.fineweb must have its default thresholds"):
        make_batch_filter(TextFilterConfig(quality_rules=rules))


@pytest.mark.slow
def test_decisions_are_those_of_datatrove():
    pytest.importorskip("spacy")
    filters = pytest.importorskip("datatrove.pipeline.filters")
    from datatrove.data import Document

    rules = {
        "gopher": filters.GopherQualityFilter,
        "gopher_repetition": filters.GopherRepetitionFilter,
        "c4": filters.C4QualityFilter,
        "fineweb": filters.FineWebQualityFilter,
    }
    config = TextFilterConfig(quality_rules=QualityRulesConfig(decided_by="datatrove"))
    records = [Record.from_content(text.encode(), "text/plain", name) for name, text in TEXTS.items()]
    for result, (name, text) in zip(make_batch_filter(config)(records), TEXTS.items(), strict=True):
        for rule, make in rules.items():
            expected = name == "empty" or make().filter(Document(text=text, id=name)) is not True
            assert (f"rules.{rule}.violations" in result.counts) == expected, (name, rule)
