import random

import pytest

from provenlm.core.records import Record
from provenlm.domains.music.content.musical_metrics import measure_notes, repeated_bar_ratio
from provenlm.domains.music.content.score import note_table
from provenlm.domains.music.filter.spec import SPEC, MusicFilterConfig, Rule, margin
from provenlm.filtering.scoring import make_filter_step
from tests.domains.music.scores import make_piece, make_record, make_score


def junk(kind):
    generator = random.Random(0)
    notes = {
        "metronome": [(beat * 480, 240, 60) for beat in range(200)],
        "loop": [(bar * 1920 + step * 240, 240, 60 + 2 * step) for bar in range(64) for step in range(8)],
        "fragment": [(beat * 480, 480, generator.randint(50, 70)) for beat in range(12)],
        "cluster": [(step * 120, 4800, generator.randint(21, 108)) for step in range(1000)],
        "sparse": [(beat * 4320, 480, generator.randint(50, 70)) for beat in range(60)],
        "long": [(beat * 480, 480, generator.randint(50, 70)) for beat in range(2100)],
    }[kind]
    return make_record(make_score(notes))


def decide(record, **settings):
    return make_filter_step(SPEC, MusicFilterConfig(**settings)).apply([record])[0]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("metronome", "pitch_entropy"),
        ("loop", "repeated_bars"),
        ("fragment", "too_few_notes"),
        ("cluster", "polyphony"),
        ("sparse", "empty_beats"),
        ("long", "length"),
    ],
)
def test_planted_junk_is_dropped_with_its_reason(kind, reason):
    settings = {"min_notes_per_beat": 0.0} if kind == "sparse" else {}
    assert decide(junk(kind), **settings).drop_reason == reason


def test_doubled_tracks_are_dropped_as_duplicated_notes():
    score = make_score([(beat * 480, 480, 60 + beat % 12) for beat in range(64)])
    score.tracks.extend(score.copy().tracks)
    assert decide(make_record(score), max_repeated_bar_ratio=1.0).drop_reason == "duplicated_notes"


def test_composed_pieces_are_kept_with_a_score_above_one_half():
    decisions = [decide(make_piece(seed)) for seed in range(20)]
    assert {decision.drop_reason for decision in decisions} == {None}
    assert min(decision.score for decision in decisions) > 0.5


def test_random_notes_are_flagged_and_counted_but_not_dropped():
    generator = random.Random(0)
    notes = sorted({(generator.randrange(0, 96000, 120), 240, generator.randint(36, 84)) for _ in range(600)})
    decision = decide(make_record(make_score(notes)))
    assert decision.drop_reason is None
    assert decision.record.metadata["atonal"] is True
    assert decision.counts["music.atonal"] == 1
    assert "atonal" not in decide(make_piece(0)).record.metadata


@pytest.mark.parametrize(("content", "reason"), [(b"no midi", "unreadable"), (make_record(make_score([])).content, "no_notes")])
def test_a_record_that_cannot_be_measured_is_dropped(content, reason):
    assert decide(Record.from_content(content, "audio/midi", "x")).drop_reason == reason


def test_a_score_below_the_minimum_is_dropped():
    assert decide(make_piece(0), min_score=1.0).drop_reason == "low_score"


def test_metrics_of_a_scale_are_those_worked_out_by_hand():
    notes = note_table(make_score([(beat * 480, 480, pitch) for beat, pitch in enumerate((60, 62, 64, 66))]), 4)
    metrics = measure_notes(notes)
    assert metrics["pitch_entropy"] == metrics["pitch_class_entropy"] == 2
    assert metrics["scale_consistency"] == 1  # C D E F# lie in G major
    assert (metrics["polyphony"], metrics["empty_beat_ratio"], metrics["notes_per_beat"]) == (1, 0, 1)
    assert (metrics["mean_ioi"], metrics["mean_duration"], metrics["pitch_range"]) == (1, 1, 6)


def test_half_of_two_equal_bars_is_repeated():
    assert repeated_bar_ratio(note_table(make_score([(0, 480, 60), (1920, 480, 60)]), 4)) == 0.5


def test_a_value_at_its_limit_scores_one_half_and_beyond_it_nothing():
    assert [margin(Rule("x", value, 4, 100)) for value in (3, 4, 8, 50, 100, 101)] == [0, 0.5, 1, 1, 0.5, 0]


def test_scale_consistency_never_exceeds_one():
    """Sums of fractions once gave 1.0000000000000002, which the filter stage refuses as a score."""
    for num_notes in range(1, 120):
        notes = note_table(make_score([(beat * 480, 480, 60 + (0, 2, 4, 5, 7, 9, 11)[beat % 7]) for beat in range(num_notes)]), 4)
        assert measure_notes(notes)["scale_consistency"] == 1
