"""Build small scores by hand for the tests of music."""

import symusic

from provenlm.core.records import Record
from provenlm.domains.music.content.score import MEDIA_TYPE, write_score
from provenlm.domains.music.scrape.procedural import compose_piece


def make_score(notes, tpq=480):
    """Return a score of one track; notes are (onset, duration, pitch) in ticks."""
    score, track = symusic.Score(tpq), symusic.Track()
    for onset, duration, pitch in notes:
        track.notes.append(symusic.Note(onset, duration, pitch, 80))
    score.tracks.append(track)
    return score


def make_record(score, **metadata):
    return Record.from_content(write_score(score), MEDIA_TYPE, "test", score=1.0, **metadata)


def make_piece(seed):
    return make_record(compose_piece(seed))
