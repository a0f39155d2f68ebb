import json
from itertools import pairwise

import numpy as np
import pytest
import symusic

from provenlm.core import config, io
from provenlm.core.errors import ConfigError, DataError
from provenlm.data.integrity import check_integrity
from provenlm.data.token_dataset import TokenizedDocument, load_token_dataset, write_token_dataset
from provenlm.domains.music.content.score import note_table, read_score, write_score
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer
from provenlm.domains.music.tokenize.quantisation import (
    MidiTokenizerConfig,
    bar_start,
    quantise_time_signatures,
    supported_time_signature,
)
from provenlm.domains.music.tokenize.spec import SPEC, MusicTokenizeConfig
from tests.domains.music.scores import make_piece, make_record, make_score

PIECES = [make_piece(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def remi():
    return MidiTokenizer(MidiTokenizerConfig())


SCHEMES = ("REMI", "TSD", "MIDILike", "Octuple", "CPWord")
RICH = {"programs": True, "num_velocities": 8, "num_tempos": 16}


@pytest.fixture(scope="module", params=["Octuple", "CPWord"])
def compound(request):
    return MidiTokenizer(MidiTokenizerConfig(scheme=request.param))


@pytest.mark.parametrize(
    "settings",
    [{"scheme": scheme} for scheme in SCHEMES] + [{"scheme": scheme, **RICH} for scheme in ("REMI", "Octuple", "CPWord")],
)
def test_decoding_gives_back_every_note_and_encoding_again_every_id(settings):
    tokenizer = MidiTokenizer(MidiTokenizerConfig(**settings))
    for record, ids in zip(PIECES, tokenizer.encode(PIECES), strict=True):
        decoded = tokenizer.decode(ids.tolist())
        assert tokenizer.canonical(decoded) == tokenizer.canonical(record.content)
        assert tokenizer.encode_content(decoded).tolist() == ids.tolist()


def test_velocities_and_tempos_get_tokens_by_setting(remi):
    rich = MidiTokenizer(MidiTokenizerConfig(num_velocities=8, num_tempos=16))
    assert {"Velocity", "Tempo"} & remi.token_classes.keys() == set()
    assert (len(rich.token_classes["Velocity"]), len(rich.token_classes["Tempo"])) == (8, 16)
    tempo = read_score(PIECES[0].content).tempos[0].qpm
    assert read_score(rich.decode(rich.encode_content(PIECES[0].content).tolist())).tempos[0].qpm == pytest.approx(tempo, rel=0.1)


def test_vocabulary_and_classes_come_from_miditok(remi):
    assert remi.vocab_size == sum(map(len, remi.token_classes.values())) == len(remi.tokens)
    assert remi.tokens[remi.token_classes["Pitch"][0]] == "Pitch_21"
    assert len(remi.token_classes["Pitch"]) == 88
    assert [remi.tokens[remi.special_tokens[name]] for name in ("pad", "bos", "eos")] == ["PAD_None", "BOS_None", "EOS_None"]


def test_the_first_tokens_of_a_scale_are_those_of_remi(remi):
    ids = remi.encode_content(write_score(make_score([(0, 480, 60), (480, 240, 62)])))
    assert remi.decode_tokens(ids) == [
        "Bar_None", "TimeSig_4/4", "Position_0", "Pitch_60", "Duration_1.0.12", "Position_12", "Pitch_62", "Duration_0.6.12",
    ]  # fmt: skip


def test_an_octuple_is_bar_position_time_signature_pitch_and_duration():
    tokenizer = MidiTokenizer(MidiTokenizerConfig(scheme="Octuple"))
    ids = tokenizer.encode_content(write_score(make_score([(0, 480, 60), (1920, 240, 62)])))
    assert tokenizer.decode_tokens(ids) == [
        "Bar_0", "Position_0", "TimeSig_4/4", "Pitch_60", "Duration_1.0.12",
        "Bar_1", "Position_0", "TimeSig_4/4", "Pitch_62", "Duration_0.6.12",
    ]  # fmt: skip


def test_a_compound_word_leaves_out_what_it_does_not_have():
    tokenizer = MidiTokenizer(MidiTokenizerConfig(scheme="CPWord"))
    ids = tokenizer.encode_content(write_score(make_score([(0, 480, 60)])))
    assert tokenizer.decode_tokens(ids) == [
        "Family_Metric", "Bar_None", "TimeSig_4/4", "Family_Metric", "Position_0", "Family_Note", "Pitch_60", "Duration_1.0.12",
    ]  # fmt: skip


def test_the_vocabularies_of_compounds_follow_one_another(compound):
    classes = compound.token_classes
    assert compound.vocab_size == len(set(compound.tokens.values())) == sum(map(len, classes.values()))
    assert sorted(compound.special_tokens.values()) == [0, 1, 2]
    assert all(np.array_equal(ids, np.arange(ids[0], ids[-1] + 1)) for ids in classes.values())
    assert "Ignore" not in classes


def test_encoded_pieces_follow_the_grammar_of_their_compounds(compound):
    successors = compound.successors
    for ids in compound.encode(PIECES[:2]):
        names = [token.split("_")[0] for token in compound.decode_tokens(ids)]
        assert all(second in successors[first] for first, second in pairwise(names))
    assert "Pitch" not in successors["Bar"]


def test_compounds_that_lack_a_part_are_left_out(compound):
    ids = compound.encode_content(PIECES[0].content)
    is_duration = np.isin(ids, compound.token_classes["Duration"])
    position = int(np.flatnonzero(is_duration)[3])
    num_notes = int(is_duration.sum())
    damaged = np.delete(ids, position).tolist()
    assert len(note_table(read_score(compound.decode(damaged)), 12)) == num_notes - 1
    assert len(note_table(read_score(compound.decode(ids[3:].tolist())), 12)) <= num_notes
    assert len(note_table(read_score(compound.decode([])), 12)) == 0


def test_octuple_drops_notes_after_its_last_bar():
    tokenizer = MidiTokenizer(MidiTokenizerConfig(scheme="Octuple", max_bars=2))
    score = make_score([(n * 480, 480, 60 + n) for n in range(12)])
    score.time_signatures.extend([symusic.TimeSignature(0, 3, 4), symusic.TimeSignature(1440, 2, 4)])
    content = write_score(score)
    notes = note_table(read_score(tokenizer.decode(tokenizer.encode_content(content).tolist())), 12)
    assert notes.pitches.tolist() == [60, 61, 62, 63, 64]
    assert tokenizer.canonical(tokenizer.decode(tokenizer.encode_content(content).tolist())) == tokenizer.canonical(content)
    assert [bar_start(score, bar) for bar in range(4)] == [0, 36, 60, 84]


def test_a_saved_tokenizer_encodes_alike(remi, tmp_path):
    remi.save(tmp_path)
    assert SPEC.load(tmp_path).encode(PIECES[:1])[0].tolist() == remi.encode(PIECES[:1])[0].tolist()


def test_a_tokenizer_of_another_vocabulary_is_refused(remi, tmp_path):
    """A new version of MidiTok could number its tokens in another order."""
    remi.save(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text(encoding="utf-8"))
    metadata["vocabulary"][5], metadata["vocabulary"][6] = metadata["vocabulary"][6], metadata["vocabulary"][5]
    io.write_json(tmp_path / "metadata.json", metadata)
    with pytest.raises(DataError, match="vocabulary must be that of the installed MidiTok"):
        SPEC.load(tmp_path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tokens": {"scheme": "MuMIDI"}}, r"x\.tokens\.scheme: must be one of REMI, .*, got 'MuMIDI'"),
        ({"tokens": {"max_bars": 0}}, r"x\.tokens: max_bars must be >= 1, got 0"),
        ({"tokens": {"lowest_pitch": 60, "highest_pitch": 60}}, r"x\.tokens: lowest_pitch must be .*, got 60 and 60"),
        ({"val_fraction": 1.0}, "x: val_fraction must be >= 0 and < 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        config.parse_config(MusicTokenizeConfig, section, "x")


@pytest.mark.parametrize("settings", [{}, {"scheme": "Octuple", **RICH}, {"scheme": "CPWord", **RICH}])
def test_any_ids_decode_to_a_midi_file(settings):
    tokenizer, generator = MidiTokenizer(MidiTokenizerConfig(**settings)), np.random.default_rng(0)
    for _ in range(20):
        read_score(tokenizer.decode(generator.integers(0, tokenizer.vocab_size, 100).tolist()))
    assert len(note_table(read_score(tokenizer.decode([])), 4)) == 0


def test_a_prompt_is_a_midi_file_or_names_of_tokens(remi, tmp_path):
    path = tmp_path / "prompt.mid"
    path.write_bytes(PIECES[0].content)
    assert remi.encode_prompt(str(path))[1:] == remi.encode_content(PIECES[0].content).tolist()
    assert remi.decode_tokens(remi.encode_prompt("Bar_None TimeSig_3/4")) == ["BOS_None", "Bar_None", "TimeSig_3/4"]
    for text in ("Pitch_999", str(tmp_path / "missing.mid")):
        with pytest.raises(DataError, match="prompt must be"):
            remi.encode_prompt(text)


@pytest.mark.parametrize(
    ("signature", "supported"),
    [((4, 4), (4, 4)), ((2, 2), (4, 4)), ((6, 8), (6, 8)), ((6, 16), (3, 8)), ((3, 16), (4, 4)), ((1, 1), (4, 4))],
)
def test_time_signatures_are_replaced_by_those_of_equal_bars(signature, supported):
    assert supported_time_signature(*signature) == supported


def test_a_time_signature_begins_at_the_start_of_a_bar():
    score = make_score([(0, 480, 60)])
    score.time_signatures.extend([symusic.TimeSignature(0, 3, 4), symusic.TimeSignature(2000, 6, 8)])
    assert quantise_time_signatures(score) == [(0, 3, 4), (72, 6, 8)]


def write_dataset(tokenizer, folder, ids_of):
    documents = [TokenizedDocument(record.id, record.id, len(record.content), ids_of(record)) for record in PIECES]
    write_token_dataset(folder, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.0)
    return load_token_dataset(folder)


def test_integrity_accepts_quantised_pieces_and_finds_a_changed_note(remi, tmp_path):
    """One semitone in one document, a note that the tokenizer would have lost, is a mismatch."""

    def changed(record):
        ids = remi.encode_content(record.content)
        if record is PIECES[3]:
            position = int(np.flatnonzero(np.isin(ids, remi.token_classes["Pitch"]))[5])
            ids[position] += 1
        return ids

    dataset = write_dataset(remi, tmp_path, changed)
    result = check_integrity(PIECES, dataset, remi, (), remi.canonical)
    assert (result.matched, result.mismatched) == (7, [PIECES[3]])


def test_a_record_with_a_note_between_grid_steps_is_rounded(remi):
    record = make_record(make_score([(13, 467, 60)]))
    assert note_table(read_score(remi.decode(remi.encode([record])[0].tolist())), 12).onsets.tolist() == [0]
