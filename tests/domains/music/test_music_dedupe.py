import numpy as np
import pytest

from provenlm.core.executors.local import LocalExecutor
from provenlm.dedup.near_duplicates import find_duplicates
from provenlm.domains.music.content.melody import melody_steps
from provenlm.domains.music.dedupe.spec import SPEC, MusicDedupeConfig
from provenlm.domains.music.scrape.procedural import compose_piece
from tests.domains.music.scores import make_piece, make_record, make_score

NUM_PIECES = 40


def transposed(score, semitones=5):
    return score.shift_pitch(semitones)


def slower(score):
    copy = score.copy()
    for track in copy.tracks:
        for note in track.notes:
            note.time, note.duration = 2 * note.time, 2 * note.duration
    return copy


def edited(score, seed, fraction=0.05):
    """Change the pitch of a fraction of the notes of the melody."""
    copy, generator = score.copy(), np.random.default_rng(seed)
    for note in copy.tracks[0].notes:
        if generator.random() < fraction:
            note.pitch = note.pitch + int(generator.choice([-2, -1, 1, 2]))
    return copy


def walk(seed, num_notes=200):
    """Return a random melody, without the repeats of form that make copies easy to find."""
    generator = np.random.default_rng(seed)
    pitches = 60 + np.clip(np.cumsum(generator.integers(-4, 5, num_notes)), -24, 24)
    onsets = np.cumsum(generator.choice([240, 480, 720], num_notes))
    return make_score([(int(onset), 200, int(pitch)) for onset, pitch in zip(onsets, pitches, strict=True)])


def fraction_found(change, make=walk):
    originals = [make(seed) for seed in range(NUM_PIECES)]
    records = [make_record(score) for score in originals] + [make_record(change(score)) for score in originals]
    result = find_duplicates(
        LocalExecutor(lambda: records),
        SPEC.normalize,
        SPEC.ngram_hashes(MusicDedupeConfig()),
        SPEC.jaccard_threshold(MusicDedupeConfig()),
    )
    clusters = result.cluster_ids
    assert len(set(clusters[:NUM_PIECES])) == NUM_PIECES  # different pieces are no duplicates
    return np.mean([clusters[n] == clusters[n + NUM_PIECES] for n in range(NUM_PIECES)])


@pytest.mark.parametrize("make", [walk, compose_piece])
@pytest.mark.parametrize("change", [transposed, slower, lambda score: slower(transposed(score, -3))])
def test_all_transposed_and_retimed_copies_are_found(change, make):
    assert fraction_found(change, make) == 1


def test_at_least_nine_in_ten_copies_with_5_percent_pitch_edits_are_found():
    assert fraction_found(lambda score: edited(score, 1)) >= 0.9


def test_a_transposed_copy_is_an_exact_duplicate():
    score = compose_piece(1)
    assert SPEC.normalize(make_record(score)) == SPEC.normalize(make_record(transposed(score)))
    assert SPEC.normalize(make_record(score)) != SPEC.normalize(make_piece(2))


def test_the_code_of_a_melody_holds_interval_and_rhythm():
    onsets, pitches = np.array([0, 4, 8, 10]), np.array([60, 62, 64, 60])
    same = melody_steps(onsets * 3, pitches - 7)
    assert same.tolist() == melody_steps(onsets, pitches).tolist()
    assert melody_steps(np.array([0, 4, 8, 12]), pitches).tolist() != same.tolist()
    assert melody_steps(onsets, np.array([60, 62, 64, 61])).tolist() != same.tolist()


def test_pieces_of_fewer_than_three_notes_are_compared_by_content():
    first, second = (make_record(make_score([(0, 480, pitch)])) for pitch in (60, 62))
    assert SPEC.normalize(first) != SPEC.normalize(second)
    assert not len(SPEC.ngram_hashes(MusicDedupeConfig())(first))
