import dataclasses
import inspect
import json
import pydoc
import random
import textwrap

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.domains.text.filter.spec import SPEC, TextFilterConfig
from provenlm.domains.text.filter.thresholds import FilterThresholds
from provenlm.filtering.scoring import FilterDecision, geometric_mean_score, make_filter_step

REFERENCE = dataclasses.asdict(FilterThresholds())
SWITCHED_OFF = {"profiles": None, "quality_rules": None, "pii": None, "language_filter": None}


def make_config(**overrides: object) -> TextFilterConfig:
    return config.parse_config(TextFilterConfig, SWITCHED_OFF | overrides, "params.yaml: corpora.x.filter")


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
    "low_doc_words": "Only a few words that are all there is on this page.",
    "high_doc_words": join_lines(WORDS * 3, 12),
    "low_avg_word_length": join_lines(["a", "b", "c", "d", "e"] * 40, 20),
    "high_avg_word_length": join_lines(random_words(2, 100, max_length=70), 5),
    "low_alpha_words_ratio": join_lines([f"+{'-+'[i % 2]}={'*/'[i % 3 % 2]}" for i in range(400)] + WORDS[:20], 13),
    "high_symbol_word_ratio": join_lines([word if i % 2 else f"#{word}" for i, word in enumerate(WORDS)], 12),
    "high_digit_ratio": join_lines([f"x{number}" for number in random.Random(3).sample(range(10**6), 300)], 12),
    "high_control_char_ratio": join_lines(WORDS, 12).replace("the", "th\x01\x02e"),
    "high_long_word_char_ratio": join_lines([*WORDS[:60], *random_words(4, 20, max_length=3), "QUJD" * 400], 12),
    "high_short_line_ratio": "\n".join(WORDS[:200]),
    "high_dup_line_char_frac": (join_lines(WORDS[:24], 12) + "\n") * 30,
    "high_top_2_gram_frac": join_lines([word for other in random_words(6, 100) for word in ("buy", "cheap", other)], 12),
    "high_dup_10_gram_frac": " ".join(WORDS[:40] * 30),
}


@pytest.mark.parametrize("name", PAGES)
def test_documentation_code_and_prose_are_kept_with_a_good_score(name):
    reason, score = outcome(PAGES[name])
    assert reason is None
    assert score >= 0.9


@pytest.mark.parametrize("reason", FAULTY)
def test_a_text_with_one_fault_is_dropped_for_it(reason):
    doc_words = {"drop_below": 20, "good_from": 60, "good_to": 500, "drop_above": 1000}
    filter_config = make_config(doc_words=doc_words) if reason == "high_doc_words" else make_config()
    drop_reason, score = outcome(FAULTY[reason], filter_config)
    assert drop_reason == reason
    assert score == 0


def test_a_text_without_stop_words_is_dropped_if_they_are_required():
    text = join_lines(random_words(7, 300), 12)
    assert outcome(text)[0] is None
    assert outcome(text, make_config(stop_words={"drop_below": 1, "good_from": 2}))[0] == "low_stop_words"


def test_bytes_that_are_not_utf8_are_dropped():
    assert outcome(PAGES["prose"].encode() + b"\xff")[0] == "not_utf8"
    assert outcome(b"\xff\xfe\x00")[0] == "not_utf8"


@pytest.mark.parametrize("content", ["", "\n \t\n"])
def test_an_empty_text_is_too_short(content):
    assert outcome(content) == ("low_doc_words", 0)


def test_a_mediocre_text_is_dropped_by_its_score_only():
    poor = join_lines(random_words(8, 24), 12)  # 24 words: a tenth of the way from 20 to 60
    reason, score = outcome(poor, make_config(min_score=0.95))
    assert reason == "low_score"
    assert 0 < score < 0.95


def test_the_score_falls_as_a_text_repeats_itself_more():
    scores = [outcome("\n".join([join_lines(WORDS[:200], 10)] * times))[1] for times in (1, 3, 5, 8)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 2


def test_there_is_one_sub_score_for_each_threshold():
    record = Record.from_content(PAGES["prose"].encode(), "text/plain", "here")
    (result,) = SPEC.classify(make_config())([record])
    sub_scores = result.sub_scores
    assert list(sub_scores) == list(REFERENCE)
    assert geometric_mean_score(sub_scores) == outcome(PAGES["prose"])[1]


def test_every_drop_reason_of_the_thresholds_has_a_faulty_text():
    sides = (("low", "drop_below"), ("high", "drop_above"))
    reasons = {f"{side}_{name}" for name, threshold in REFERENCE.items() for side, key in sides if threshold[key] is not None}
    assert reasons == {*FAULTY, "low_stop_words"}


def test_a_threshold_without_keys_limits_nothing():
    assert outcome(FAULTY["high_digit_ratio"], make_config(digit_ratio={}))[0] is None


def test_a_one_sided_statistic_can_get_a_limit_on_the_other_side():
    alpha_words_ratio = {"good_to": 0.5, "drop_above": 0.9}
    assert outcome(PAGES["prose"], make_config(alpha_words_ratio=alpha_words_ratio))[0] == "high_alpha_words_ratio"


def test_the_defaults_filter_like_the_default_corpus():
    """Without keys, records get profiles, languages and counts of violations, and no rule set drops any."""
    (result,) = SPEC.classify(config.parse_config(TextFilterConfig, {}, "x"))(
        [Record.from_content(b"too short", "text/plain", "x")]
    )
    assert (result.drop_reason, result.record.metadata["profile"]) == ("low_doc_words", "reference")
    assert result.counts == {"rules.gopher.violations": 1, "rules.c4.violations": 1, "rules.fineweb.violations": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_score": 1.5}, "min_score must be from 0 to 1, got 1.5"),
        ({"doc_words": {"drop_below": 20}}, "doc_words: drop_below and good_from must be given together"),
        ({"digit_ratio": {"good_to": 0.5, "drop_above": 0.1}}, "digit_ratio: drop_above must be > good_to, got 0.1 and 0.5"),
        ({"digit_ratio": {"good_to": 0.5, "drop_above": 0.5}}, "digit_ratio: drop_above must be > good_to"),
        ({"digit_ratio": [0.5, 0.1]}, "digit_ratio: must be a mapping"),
        ({"min_words": 3}, "unknown key 'min_words'"),
    ],
)
def test_an_invalid_threshold_is_refused_with_the_allowed_values(changes, message):
    with pytest.raises(ProvenlmError, match=message):
        make_config(**changes)


SECTIONS = {
    "profiles": {
        "min_punctuation_ratio": 0.2,
        "min_sentence_line_ratio": 0.6,
        "code": REFERENCE | {"dup_10_gram_frac": {}},
        "prose": REFERENCE | {"dup_10_gram_frac": {"good_to": 0.01, "drop_above": 0.02}},
    },
    "quality_rules": {"apply_to": ["prose"], "gopher_repetition": None, "c4": {"max_curly_brackets": 10}, "fineweb": None},
    "pii": {"email": "mask", "secret": "drop"},
    "language_filter": {"languages": ["en"]},
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
    for markup in ("text/x-rst", "text/x-asciidoc", "text/x-tex"):
        assert (
            decide(SENTENCES, markup).record.metadata["profile"]
            == decide(SENTENCES, "text/plain").record.metadata["profile"]
            != "code"
        )


def test_thresholds_and_quality_rules_depend_on_the_profile():
    assert decide(SENTENCES).drop_reason == "high_dup_10_gram_frac"
    assert decide(SENTENCES, "text/x-python").drop_reason is None
    short = "This is it. This was it."
    assert decide(short).drop_reason == "gopher_doc_words"
    counted_only = SECTIONS["quality_rules"] | {"apply_to": []}
    assert decide(short, quality_rules=counted_only).counts == {"rules.gopher.violations": 1, "rules.c4.violations": 1}
    assert decide(short, quality_rules=counted_only).drop_reason == "low_doc_words"


def test_a_masked_record_gets_the_id_of_its_new_content():
    text = PAGES["reference documentation"] + "\nwritten by jane.doe@mail.org\n"
    decision = decide(text)
    assert decision.drop_reason is None
    assert decision.record.text == text.replace("jane.doe@mail.org", "<email>")
    assert decision.record.id == Record.from_content(decision.record.content, "", "").id
    assert (decision.counts["pii.email"], decision.original_bytes) == (1, len(text.encode()))


def test_a_record_with_a_secret_is_dropped_if_configured():
    text = PAGES["reference documentation"] + "\nAKIAQ2W3E4R5T6Y7U7IJ\n"
    assert decide(text).drop_reason == "pii_secret"
    assert decide(text, pii={}).drop_reason is None


def test_another_language_is_dropped_and_the_language_is_in_the_metadata():
    german = "Der Zug nach München fährt heute leider erst eine halbe Stunde später ab, weil es geschneit hat. " * 5
    assert decide(german).drop_reason == "other_language"
    assert decide(PAGES["reference documentation"]).record.metadata["language"] == "en"


def test_decisions_on_text_survive_serialization():
    work = make_filter_step(SPEC, make_config(**SECTIONS))
    for item in work.apply([Record.from_content(page.encode(), "text/plain", "here") for page in PAGES.values()]):
        assert work.deserialize(work.serialize(item)) == item


def test_a_decision_does_not_depend_on_the_rest_of_the_batch():
    texts = [*PAGES.values(), *FAULTY.values(), "", "AKIAQ2W3E4R5T6Y7U7IJ", "jane.doe@mail.org"]
    records = [Record.from_content(text.encode(), kind, "here") for text in texts for kind in ("text/plain", "text/x-python")]
    records.append(Record.from_content(b"\xff", "text/plain", "here"))
    work = make_filter_step(SPEC, make_config(**SECTIONS))
    assert work.apply(records) == [work.apply([record])[0] for record in records]


def test_the_line_filter_applies_before_statistics_to_its_profiles_only():
    menu = SENTENCES + "\nHome | About | Contact"
    relaxed = REFERENCE | {"dup_10_gram_frac": {}}
    overrides = {
        "line_filter": {"apply_to": ["prose"]},
        "profiles": SECTIONS["profiles"] | {"prose": relaxed},
        "quality_rules": None,
    }
    decision = decide(menu, **overrides)
    assert (decision.drop_reason, decision.record.text, decision.counts) == (None, SENTENCES, {"lines.no_terminal_punct": 1})
    assert decision.record.id == Record.from_content(SENTENCES.encode(), "", "").id
    assert decide(menu, "text/x-python", **overrides).record.text == menu
    assert decide("Home | About\n" * 3 + "It ended. It did.\n" * 9 + "lorem ipsum.", **overrides).drop_reason == "lorem_ipsum"
