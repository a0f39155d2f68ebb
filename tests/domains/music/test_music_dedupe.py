import numpy as np
import pytest

from provenlm.core.executors.local import LocalExecutor
from provenlm.data.token_dataset import assign_split
from provenlm.dedup.near_duplicates import find_duplicates
from provenlm.domains.music.content.melody import melody_steps
from provenlm.domains.music.dedupe.spec import SPEC, MusicDedupeConfig
from provenlm.domains.music.scrape.procedural import compose_piece
from tests.domains.music.scores import make_piece, make_record, make_score

NUM_PIECES = 40
DEFAULT = MusicDedupeConfig()


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


def first_half(score):
    """Return the notes that begin before the middle, transposed."""
    copy = transposed(score)
    for track in copy.tracks:
        track.notes = type(track.notes)([note for note in track.notes if note.time < score.end() // 2])
    return copy


def find_variants(change, make=walk, config=DEFAULT):
    originals = [make(seed) for seed in range(NUM_PIECES)]
    records = [make_record(score) for score in originals] + [make_record(change(score)) for score in originals]
    result = find_duplicates(
        LocalExecutor(lambda: records),
        SPEC.normalize,
        SPEC.ngram_hashes(config),
        SPEC.jaccard_threshold(config),
        SPEC.containment_threshold(config),
    )
    assert len(set(result.cluster_ids[:NUM_PIECES])) == NUM_PIECES  # different pieces are in different clusters
    return result


def fraction_joined(result):
    clusters = result.cluster_ids
    return np.mean([clusters[n] == clusters[n + NUM_PIECES] for n in range(NUM_PIECES)])


@pytest.mark.parametrize("make", [walk, compose_piece])
@pytest.mark.parametrize("change", [transposed, slower, lambda score: slower(transposed(score, -3))])
def test_all_transposed_and_retimed_copies_are_removed(change, make):
    result = find_variants(change, make)
    assert fraction_joined(result) == 1
    assert result.kept_mask.sum() == NUM_PIECES


@pytest.mark.parametrize("change", [transposed, slower, lambda score: edited(score, 1), first_half])
def test_no_planted_variant_is_in_the_other_split(change):
    """Halves and edited copies are kept, but no piece is held out while a variant of it is trained on."""
    result = find_variants(change)
    splits = [assign_split(cluster, 0.5) for cluster in result.cluster_ids]
    assert splits[:NUM_PIECES] == splits[NUM_PIECES:]
    assert set(splits) == {"train", "val"}
    assert result.kept_mask.sum() == NUM_PIECES * (1 if change in (transposed, slower) else 2)


def test_without_containment_a_first_half_crosses_the_split():
    """The planted fault: a threshold of Jaccard similarity alone."""
    result = find_variants(first_half, config=MusicDedupeConfig(containment_threshold=2.0))
    assert fraction_joined(result) == 0


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
