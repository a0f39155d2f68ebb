import inspect
import json
import pydoc
import random
import textwrap

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.domains.text.filter.spec import SPEC, TextFilterConfig, stat_thresholds
from provenlm.filtering.scoring import FilterDecision, geometric_mean_score, make_filter_step

THRESHOLDS = {
    "least": 0.5,
    "words": [20, 60, 200_000, 1_000_000],
    "word_length": [2, 3, 12, 24],
    "letter_words": [0.2, 0.5],
    "stop_words": [-1, 2],
    "symbol_words": [0.1, 0.5],
    "digits": [0.15, 0.5],
    "control": [0.0005, 0.01],
    "long_words": [0.3, 0.6],
    "short_lines": [0.85, 1.0],
    "repeated_lines": [0.5, 0.9],
    "top_bigram": [0.1, 0.4],
    "repeated_ngrams": [0.5, 0.9],
}


def make_config(**overrides: object) -> TextFilterConfig:
    return config.parse_config(TextFilterConfig, THRESHOLDS | overrides, "params.yaml: corpora.x.filter")


def outcome(content: str | bytes, filter_config: TextFilterConfig | None = None) -> tuple[str | None, float]:
    filter_config = filter_config or make_config()
    record = Record.from_content(content if isinstance(content, bytes) else content.encode(), "text/plain", "here")
    decision = decision_for(record, filter_config)
    return decision.drop_reason, decision.score


def decision_for(record: Record, filter_config: TextFilterConfig) -> FilterDecision:
    (decision,) = make_filter_step(SPEC, filter_config).apply([record])
    return decision


def random_words(seed: int, count: int, letters: str = "abcdefghijklmnopqrstuvwxyz", max_length: int = 9) -> list[str]:
    random_ = random.Random(seed)
    return ["".join(random_.choices(letters, k=random_.randrange(2, max_length))) for _ in range(count)]


def join_lines(words: list[str], words_per_line: int) -> str:
    return "\n".join(" ".join(words[i : i + words_per_line]) for i in range(0, len(words), words_per_line))


WORDS = [word for i, word in enumerate(random_words(1, 400)) for word in ([word, "the", "and"] if i % 9 == 0 else [word])]
PAGES = {
    "reference documentation": pydoc.plain(pydoc.render_doc("textwrap", renderer=pydoc.plaintext)),
    "a large reference page": pydoc.plain(pydoc.render_doc("collections", renderer=pydoc.plaintext)),
    "source code": inspect.getsource(textwrap),
    "source code with many docstrings": inspect.getsource(json),
    "prose": join_lines(WORDS, 12),
}
FAULTY = {
    "too_short": "Only a few words that are all there is on this page.",
    "too_long": join_lines(WORDS * 3, 12),
    "words_too_short": join_lines(["a", "b", "c", "d", "e"] * 40, 20),
    "words_too_long": join_lines(random_words(2, 100, max_length=70), 5),
    "few_words_with_letters": join_lines([f"+{'-+'[i % 2]}={'*/'[i % 3 % 2]}" for i in range(400)] + WORDS[:20], 13),
    "many_symbols": join_lines([word if i % 2 else f"#{word}" for i, word in enumerate(WORDS)], 12),
    "many_digits": join_lines([f"x{number}" for number in random.Random(3).sample(range(10**6), 300)], 12),
    "control_characters": join_lines(WORDS, 12).replace("the", "th\x01\x02e"),
    "unbroken_strings": join_lines([*WORDS[:60], *random_words(4, 20, max_length=3), "QUJD" * 400], 12),
    "only_short_lines": "\n".join(WORDS[:200]),
    "repeated_lines": (join_lines(WORDS[:24], 12) + "\n") * 30,
    "one_pair_of_words": join_lines([word for other in random_words(6, 100) for word in ("buy", "cheap", other)], 12),
    "repeated_passages": " ".join(WORDS[:40] * 30),
}


@pytest.mark.parametrize("name", PAGES)
def test_documentation_code_and_prose_are_kept_with_a_good_score(name):
    reason, score = outcome(PAGES[name])
    assert reason is None
    assert score >= 0.9


@pytest.mark.parametrize("reason", FAULTY)
def test_a_text_with_one_fault_is_dropped_for_it(reason):
    filter_config = make_config(words=[20, 60, 500, 1000]) if reason == "too_long" else make_config()
    drop_reason, score = outcome(FAULTY[reason], filter_config)
    assert drop_reason == reason
    assert score == 0


def test_a_text_without_stop_words_is_dropped_where_they_are_asked_for():
    text = join_lines(random_words(7, 300), 12)
    assert outcome(text)[0] is None
    assert outcome(text, make_config(stop_words=[1, 2]))[0] == "few_stop_words"


def test_bytes_that_are_no_utf8_are_dropped_and_nothing_crashes():
    assert outcome(PAGES["prose"].encode() + b"\xff")[0] == "not_utf8"
    assert outcome(b"\xff\xfe\x00")[0] == "not_utf8"


@pytest.mark.parametrize("body", ["", "\n \t\n"])
def test_an_empty_text_is_too_short(content):
    assert outcome(content) == ("too_short", 0)


def test_a_middling_text_is_dropped_by_its_score_alone():
    poor = join_lines(random_words(8, 24), 12)  # 24 words: a tenth of the way from 20 to 60
    reason, score = outcome(poor, make_config(least=0.95))
    assert reason == "low_score"
    assert 0 < score < 0.95


def test_the_score_falls_as_a_text_repeats_itself_more():
    scores = [outcome("\n".join([join_lines(WORDS[:200], 10)] * times))[1] for times in (1, 3, 5, 8)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 2


def test_there_is_one_named_part_for_each_band():
    record = Record.from_content(PAGES["prose"].encode(), "text/plain", "here")
    (result,) = SPEC.classify(make_config())([record])
    sub_scores = result.sub_scores
    assert list(sub_scores) == [name for name in THRESHOLDS if name != "least"]
    assert geometric_mean_score(sub_scores) == outcome(PAGES["prose"])[1]


def test_every_reason_of_the_rules_has_a_planted_text():
    reasons = {reason for band in stat_thresholds(make_config()) for reason in (band.low_reason, band.high_reason) if reason}
    assert reasons == {*FAULTY, "few_stop_words"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least": 1.5}, "least: a score from 0 to 1, got 1.5"),
        ({"words": [20, 60]}, r"words: 4 rising limits, got \[20.0, 60.0\]"),
        ({"digits": [0.5, 0.1]}, r"digits: 2 rising limits, got \[0.5, 0.1\]"),
        ({"digits": [0.5, 0.5]}, "digits: 2 rising limits"),
        ({"min_words": 3}, "unknown key 'min_words'"),
    ],
)
def test_a_wrong_band_is_refused_with_what_would_be_right(changes, message):
    with pytest.raises(ProvenlmError, match=message):
        make_config(**changes)


SECTIONS = {
    "profiles": {
        "code_from": 0.2,
        "prose_from": 0.6,
        "code": {name: THRESHOLDS[name] for name in THRESHOLDS if name != "least"} | {"repeated_ngrams": [1, 2]},
        "prose": {name: THRESHOLDS[name] for name in THRESHOLDS if name != "least"} | {"repeated_ngrams": [0.01, 0.02]},
    },
    "rule_sets": {"of": ["prose"], "gopher": {}, "gopher_repetition": None, "c4": {"braces": 10}, "fineweb": None},
    "private": {"email": "mask", "ip": "keep", "phone": "keep", "secret": "drop"},
    "languages": {"keep": ["en"], "least": 0.9},
}
SENTENCES = "\n".join(
    f"The {a} of the {b} is what we have seen with our own eyes on that day." for a in WORDS[:6] for b in WORDS[9:12]
)


def decide(text: str, media_type: str = "text/plain", **overrides: object) -> FilterDecision:
    return decision_for(Record.from_content(text.encode(), media_type, "here"), make_config(**(SECTIONS | overrides)))


def test_each_record_has_a_profile_of_its_own():
    profiles = {
        "code": "def f(x):\n    return {k: [v(x), (k, v)] for k, v in x.items()}\n" * 3,
        "prose": SENTENCES,
        "reference": PAGES["reference documentation"],
    }
    assert {name: decide(text).record.metadata["profile"] for name, text in profiles.items()} == {name: name for name in profiles}
    assert decide(SENTENCES, "text/x-python").record.metadata["profile"] == "code"


def test_bands_and_published_rules_are_those_of_the_profile():
    assert decide(SENTENCES).drop_reason == "repeated_passages"
    assert decide(SENTENCES, "text/x-python").drop_reason is None
    short = "This is it. This was it."
    assert decide(short).drop_reason == "gopher_words"
    counted_only = SECTIONS["rule_sets"] | {"of": []}
    assert decide(short, rule_sets=counted_only).counts == {"rules.gopher": 1, "rules.c4": 1}
    assert decide(short, rule_sets=counted_only).drop_reason == "too_short"


def test_an_address_is_masked_and_the_record_gets_the_id_of_what_is_left():
    text = PAGES["reference documentation"] + "\nwritten by jane.doe@mail.org\n"
    decision = decide(text)
    assert decision.drop_reason is None
    assert decision.record.text == text.replace("jane.doe@mail.org", "<email>")
    assert decision.record.id == Record.from_content(decision.record.content, "", "").id
    assert (decision.counts["private.email"], decision.original_bytes) == (1, len(text.encode()))


def test_a_record_with_a_key_is_dropped_by_choice():
    text = PAGES["reference documentation"] + "\nAKIAQ2W3E4R5T6Y7U7IJ\n"
    assert decide(text).drop_reason == "private_secret"
    assert decide(text, private=dict.fromkeys(SECTIONS["private"], "keep")).drop_reason is None


def test_another_language_is_dropped_and_the_language_is_a_fact():
    german = "Der Zug nach München fährt heute leider erst eine halbe Stunde später ab, weil es geschneit hat. " * 5
    assert decide(german).drop_reason == "other_language"
    assert decide(PAGES["reference documentation"]).record.metadata["language"] == "en"


def test_what_travels_between_machines_is_what_was_judged():
    work = make_filter_step(SPEC, make_config(**SECTIONS))
    for item in work.apply([Record.from_content(page.encode(), "text/plain", "here") for page in PAGES.values()]):
        assert work.deserialize(work.serialize(item)) == item


def test_a_verdict_on_a_record_is_the_same_in_any_company():
    texts = [*PAGES.values(), *FAULTY.values(), "", "AKIAQ2W3E4R5T6Y7U7IJ", "jane.doe@mail.org"]
    records = [Record.from_content(text.encode(), kind, "here") for text in texts for kind in ("text/plain", "text/x-python")]
    records.append(Record.from_content(b"\xff", "text/plain", "here"))
    work = make_filter_step(SPEC, make_config(**SECTIONS))
    assert work.apply(records) == [work.apply([record])[0] for record in records]


def test_lines_are_taken_out_of_records_of_the_named_profiles_which_are_judged_without_them():
    menu = SENTENCES + "\nHome | About | Contact"
    relaxed = {name: THRESHOLDS[name] for name in THRESHOLDS if name != "least"} | {"repeated_ngrams": [1, 2]}
    overrides = {"lines": {"of": ["prose"]}, "profiles": SECTIONS["profiles"] | {"prose": relaxed}, "rule_sets": None}
    decision = decide(menu, **overrides)
    assert (decision.drop_reason, decision.record.text, decision.counts) == (None, SENTENCES, {"lines.not_ended": 1})
    assert decision.record.id == Record.from_content(SENTENCES.encode(), "", "").id
    assert decide(menu, "text/x-python", **overrides).record.text == menu
    assert decide("Home | About\n" * 3 + "It ended. It did.\n" * 9 + "lorem ipsum.", **overrides).drop_reason == "lorem_ipsum"
