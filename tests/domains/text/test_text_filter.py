import inspect
import json
import pydoc
import random
import textwrap

import pytest

from provenlm.core import config
from provenlm.core.errors import UserError
from provenlm.core.records import Record
from provenlm.domains.text.filter.spec import SPEC, Settings, bands
from provenlm.filtering.scoring import Judged, judging, score_of

BANDS = {
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


def settings(**changes: object) -> Settings:
    return config.parse(Settings, BANDS | changes, "params.yaml: corpora.x.filter")


def verdict(body: str | bytes, given: Settings | None = None) -> tuple[str | None, float]:
    given = given or settings()
    record = Record.of(body if isinstance(body, bytes) else body.encode(), "text/plain", "here")
    judged = of(record, given)
    return judged.reason, judged.score


def of(record: Record, given: Settings) -> Judged:
    (judged,) = judging(SPEC, given).do([record])
    return judged


def vocabulary(seed: int, count: int, letters: str = "abcdefghijklmnopqrstuvwxyz", longest: int = 9) -> list[str]:
    random_ = random.Random(seed)
    return ["".join(random_.choices(letters, k=random_.randrange(2, longest))) for _ in range(count)]


def lines(words: list[str], each: int) -> str:
    return "\n".join(" ".join(words[i : i + each]) for i in range(0, len(words), each))


WORDS = [word for i, word in enumerate(vocabulary(1, 400)) for word in ([word, "the", "and"] if i % 9 == 0 else [word])]
PAGES = {
    "reference documentation": pydoc.plain(pydoc.render_doc("textwrap", renderer=pydoc.plaintext)),
    "a large reference page": pydoc.plain(pydoc.render_doc("collections", renderer=pydoc.plaintext)),
    "source code": inspect.getsource(textwrap),
    "source code with many docstrings": inspect.getsource(json),
    "prose": lines(WORDS, 12),
}
PLANTED = {
    "too_short": "Only a few words that are all there is on this page.",
    "too_long": lines(WORDS * 3, 12),
    "words_too_short": lines(["a", "b", "c", "d", "e"] * 40, 20),
    "words_too_long": lines(vocabulary(2, 100, longest=70), 5),
    "few_words_with_letters": lines([f"+{'-+'[i % 2]}={'*/'[i % 3 % 2]}" for i in range(400)] + WORDS[:20], 13),
    "many_symbols": lines([word if i % 2 else f"#{word}" for i, word in enumerate(WORDS)], 12),
    "many_digits": lines([f"x{number}" for number in random.Random(3).sample(range(10**6), 300)], 12),
    "control_characters": lines(WORDS, 12).replace("the", "th\x01\x02e"),
    "unbroken_strings": lines([*WORDS[:60], *vocabulary(4, 20, longest=3), "QUJD" * 400], 12),
    "only_short_lines": "\n".join(WORDS[:200]),
    "repeated_lines": (lines(WORDS[:24], 12) + "\n") * 30,
    "one_pair_of_words": lines([word for other in vocabulary(6, 100) for word in ("buy", "cheap", other)], 12),
    "repeated_passages": " ".join(WORDS[:40] * 30),
}


@pytest.mark.parametrize("name", PAGES)
def test_documentation_code_and_prose_are_kept_with_a_good_score(name):
    reason, score = verdict(PAGES[name])
    assert reason is None
    assert score >= 0.9


@pytest.mark.parametrize("reason", PLANTED)
def test_a_text_with_one_fault_is_dropped_for_it(reason):
    given = settings(words=[20, 60, 500, 1000]) if reason == "too_long" else settings()
    found, score = verdict(PLANTED[reason], given)
    assert found == reason
    assert score == 0


def test_a_text_without_stop_words_is_dropped_where_they_are_asked_for():
    text = lines(vocabulary(7, 300), 12)
    assert verdict(text)[0] is None
    assert verdict(text, settings(stop_words=[1, 2]))[0] == "few_stop_words"


def test_bytes_that_are_no_utf8_are_dropped_and_nothing_crashes():
    assert verdict(PAGES["prose"].encode() + b"\xff")[0] == "not_utf8"
    assert verdict(b"\xff\xfe\x00")[0] == "not_utf8"


@pytest.mark.parametrize("body", ["", "\n \t\n"])
def test_an_empty_text_is_too_short(body):
    assert verdict(body) == ("too_short", 0)


def test_a_middling_text_is_dropped_by_its_score_alone():
    poor = lines(vocabulary(8, 24), 12)  # 24 words: a tenth of the way from 20 to 60
    reason, score = verdict(poor, settings(least=0.95))
    assert reason == "low_score"
    assert 0 < score < 0.95


def test_the_score_falls_as_a_text_repeats_itself_more():
    scores = [verdict("\n".join([lines(WORDS[:200], 10)] * times))[1] for times in (1, 3, 5, 8)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 2


def test_there_is_one_named_part_for_each_band():
    record = Record.of(PAGES["prose"].encode(), "text/plain", "here")
    (verdict_,) = SPEC.judge(settings())([record])
    parts = verdict_.parts
    assert list(parts) == [name for name in BANDS if name != "least"]
    assert score_of(parts) == verdict(PAGES["prose"])[1]


def test_every_reason_of_the_rules_has_a_planted_text():
    reasons = {reason for band in bands(settings()) for reason in (band.low, band.high) if reason}
    assert reasons == {*PLANTED, "few_stop_words"}


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
    with pytest.raises(UserError, match=message):
        settings(**changes)


SECTIONS = {
    "profiles": {
        "code_from": 0.2,
        "prose_from": 0.6,
        "code": {name: BANDS[name] for name in BANDS if name != "least"} | {"repeated_ngrams": [1, 2]},
        "prose": {name: BANDS[name] for name in BANDS if name != "least"} | {"repeated_ngrams": [0.01, 0.02]},
    },
    "rule_sets": {"of": ["prose"], "gopher": {}, "gopher_repetition": None, "c4": {"braces": 10}, "fineweb": None},
    "private": {"email": "mask", "ip": "keep", "phone": "keep", "secret": "drop"},
    "languages": {"keep": ["en"], "least": 0.9},
}
SENTENCES = "\n".join(
    f"The {a} of the {b} is what we have seen with our own eyes on that day." for a in WORDS[:6] for b in WORDS[9:12]
)


def judged(text: str, media_type: str = "text/plain", **changes: object) -> Judged:
    return of(Record.of(text.encode(), media_type, "here"), settings(**(SECTIONS | changes)))


def test_each_record_has_a_profile_of_its_own():
    profiles = {
        "code": "def f(x):\n    return {k: [v(x), (k, v)] for k, v in x.items()}\n" * 3,
        "prose": SENTENCES,
        "reference": PAGES["reference documentation"],
    }
    assert {name: judged(text).record.facts["profile"] for name, text in profiles.items()} == {name: name for name in profiles}
    assert judged(SENTENCES, "text/x-python").record.facts["profile"] == "code"


def test_bands_and_published_rules_are_those_of_the_profile():
    assert judged(SENTENCES).reason == "repeated_passages"
    assert judged(SENTENCES, "text/x-python").reason is None
    short = "This is it. This was it."
    assert judged(short).reason == "gopher_words"
    asked_of_none = SECTIONS["rule_sets"] | {"of": []}
    assert judged(short, rule_sets=asked_of_none).found == {"rules.gopher": 1, "rules.c4": 1}
    assert judged(short, rule_sets=asked_of_none).reason == "too_short"


def test_an_address_is_masked_and_the_record_gets_the_id_of_what_is_left():
    text = PAGES["reference documentation"] + "\nwritten by jane.doe@mail.org\n"
    found = judged(text)
    assert found.reason is None
    assert found.record.text == text.replace("jane.doe@mail.org", "<email>")
    assert found.record.id == Record.of(found.record.body, "", "").id
    assert (found.found["private.email"], found.size) == (1, len(text.encode()))


def test_a_record_with_a_key_is_dropped_by_choice():
    text = PAGES["reference documentation"] + "\nAKIAQ2W3E4R5T6Y7U7IJ\n"
    assert judged(text).reason == "private_secret"
    assert judged(text, private=dict.fromkeys(SECTIONS["private"], "keep")).reason is None


def test_another_language_is_dropped_and_the_language_is_a_fact():
    german = "Der Zug nach München fährt heute leider erst eine halbe Stunde später ab, weil es geschneit hat. " * 5
    assert judged(german).reason == "other_language"
    assert judged(PAGES["reference documentation"]).record.facts["language"] == "en"


def test_what_travels_between_machines_is_what_was_judged():
    work = judging(SPEC, settings(**SECTIONS))
    for item in work.do([Record.of(page.encode(), "text/plain", "here") for page in PAGES.values()]):
        assert work.unpack(work.pack(item)) == item


def test_a_verdict_on_a_record_is_the_same_in_any_company():
    texts = [*PAGES.values(), *PLANTED.values(), "", "AKIAQ2W3E4R5T6Y7U7IJ", "jane.doe@mail.org"]
    records = [Record.of(text.encode(), kind, "here") for text in texts for kind in ("text/plain", "text/x-python")]
    records.append(Record.of(b"\xff", "text/plain", "here"))
    work = judging(SPEC, settings(**SECTIONS))
    assert work.do(records) == [work.do([record])[0] for record in records]


def test_lines_are_taken_out_of_records_of_the_named_profiles_which_are_judged_without_them():
    menu = SENTENCES + "\nHome | About | Contact"
    loose = {name: BANDS[name] for name in BANDS if name != "least"} | {"repeated_ngrams": [1, 2]}
    given = {"lines": {"of": ["prose"]}, "profiles": SECTIONS["profiles"] | {"prose": loose}, "rule_sets": None}
    found = judged(menu, **given)
    assert (found.reason, found.record.text, found.found) == (None, SENTENCES, {"lines.not_ended": 1})
    assert found.record.id == Record.of(SENTENCES.encode(), "", "").id
    assert judged(menu, "text/x-python", **given).record.text == menu
    assert judged("Home | About\n" * 3 + "It ended. It did.\n" * 9 + "lorem ipsum.", **given).reason == "lorem_ipsum"
