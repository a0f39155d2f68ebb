from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.core.errors import ConfigError, DataError
from provenlm.data.token_dataset import TokenizedDocument, load_token_dataset, write_token_dataset
from provenlm.domains.music.content.score import note_table, read_score, write_score
from provenlm.domains.music.tokenize.augmentation import build_augmentation
from provenlm.domains.music.tokenize.batch_config import AugmentationConfig
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig
from provenlm.domains.music.tokenize.spec import SPEC
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from tests.domains.music.scores import make_piece, make_score

ALL_KEYS = AugmentationConfig()
PIECES = [make_piece(seed) for seed in range(6)]
SETTINGS = {"remi": {"num_tempos": 16}, "midilike": {"scheme": "MIDILike"}, "octuple": {"scheme": "Octuple", "num_tempos": 16}}


@pytest.fixture(scope="module", params=SETTINGS)
def tokenizer(request):
    return MidiTokenizer(MidiTokenizerConfig(**SETTINGS[request.param]))


@pytest.fixture(scope="module")
def dataset(tokenizer, tmp_path_factory):
    """Write six pieces; those with an even number are held out."""
    documents = [TokenizedDocument(str(n), str(n), 1, ids) for n, ids in enumerate(tokenizer.encode(PIECES))]
    folder = tmp_path_factory.mktemp("tokens")
    write_token_dataset(folder, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.5, tokenizer.token_classes)
    return load_token_dataset(folder)


def notes_of(tokenizer, ids_T):
    return note_table(read_score(tokenizer.decode(ids_T.tolist())), 12)


def variants_of(tokenizer, dataset, content, num_draws=24, config=ALL_KEYS, seed=1):
    """Return the original ids and the augmented batch of `num_draws` draws of one piece."""
    ids_T = torch.from_numpy(tokenizer.encode_content(content).astype(np.int64))
    targets_T = ids_T[1:].clone()
    targets_T[0] = IGNORE
    batch = TokenBatch(ids_T[:-1].repeat(num_draws, 1), targets_T.repeat(num_draws, 1))
    return ids_T, build_augmentation(dataset, config, seed).apply(batch, np.arange(num_draws))


def first_pitch(dataset, ids_T):
    """Return the position of the first pitch."""
    ids = next(dataset.token_classes[name] for name in ("Pitch", "NoteOn") if name in dataset.token_classes)
    return int(torch.isin(ids_T, torch.from_numpy(ids)).nonzero()[0])


def test_a_variant_is_the_piece_in_another_key(tokenizer, dataset):
    ids_T, batch = variants_of(tokenizer, dataset, PIECES[0].content, 12)
    original = notes_of(tokenizer, ids_T[:-1])
    shifts = set()
    for row, targets_T in zip(batch.inputs_BT, batch.targets_BT, strict=True):
        notes = notes_of(tokenizer, row)
        assert (notes.onsets.tolist(), notes.durations.tolist()) == (original.onsets.tolist(), original.durations.tolist())
        (shift,) = set((notes.pitches - original.pitches).tolist())
        shifts.add(shift)
        assert targets_T[0] == IGNORE
        assert targets_T[1:-1].tolist() == row[2:].tolist()  # inputs and targets stay one sequence
    assert shifts <= set(range(-5, 7)) and len(shifts) > 5


def test_all_twelve_keys_are_drawn_alike(dataset, tokenizer):
    ids_T, batch = variants_of(tokenizer, dataset, PIECES[1].content, 600, AugmentationConfig(max_tempo_bins=0))
    position = first_pitch(dataset, ids_T)
    counts = torch.bincount(batch.inputs_BT[:, position] - ids_T[position] + 5, minlength=12)
    assert len(counts) == 12 and counts.min() > 25


def test_tempo_tokens_are_shifted_where_there_are_some(tokenizer, dataset):
    ids_T, batch = variants_of(tokenizer, dataset, PIECES[0].content)
    augmentation = build_augmentation(dataset, AugmentationConfig(), 0)
    tempo_ids = dataset.token_classes.get("Tempo")
    assert augmentation.num_variants == (12 if tempo_ids is None else 60)
    if tempo_ids is not None:
        is_tempo_T = torch.isin(ids_T[:-1], torch.from_numpy(tempo_ids))
        assert len(set((batch.inputs_BT - ids_T[:-1])[:, is_tempo_T].flatten().tolist())) == 5
    is_fixed_T = ~torch.isin(
        ids_T[:-1],
        torch.from_numpy(
            np.concatenate([ids for name, ids in dataset.token_classes.items() if name in ("Pitch", "NoteOn", "NoteOff", "Tempo")])
        ),
    )
    assert torch.equal(batch.inputs_BT[:, is_fixed_T], ids_T[:-1][is_fixed_T].expand(24, -1))


def test_no_pitch_leaves_the_vocabulary(tokenizer, dataset):
    """A piece from the lowest to the highest pitch has one key only."""
    _, batch = variants_of(tokenizer, dataset, write_score(make_score([(0, 480, 21), (480, 480, 108)])), 4)
    assert {tuple(notes_of(tokenizer, row).pitches.tolist()) for row in batch.inputs_BT} <= {(21, 108), (21,)}
    ids_T, batch = variants_of(tokenizer, dataset, write_score(make_score([(0, 480, 106), (480, 480, 100)])), 100)
    position = first_pitch(dataset, ids_T)
    assert set((batch.inputs_BT[:, position] - ids_T[position]).tolist()) == set(range(-5, 3))


def test_variants_depend_on_seed_and_draw_alone(tokenizer, dataset):
    first, second, other = (variants_of(tokenizer, dataset, PIECES[0].content, seed=seed)[1].inputs_BT for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    ids_T = first[:1]
    batch = TokenBatch(ids_T, ids_T.clone())
    augmentation = build_augmentation(dataset, AugmentationConfig(), 1)
    one, many = augmentation.apply(batch, np.array([5])), augmentation.apply(TokenBatch(*[ids_T.repeat(9, 1)] * 2), np.arange(9))
    assert torch.equal(one.inputs_BT[0], many.inputs_BT[5])


def test_music_trains_on_variants_by_default_and_validates_on_the_pieces(dataset):
    config = TrainConfig(seq_len=64, global_batch_size=4, max_steps=2000)
    dataloader = build_dataloader(dataset, config, SPEC)
    assert dataloader.augmentation is not None
    assert not torch.equal(dataloader.batch_at(0, 8).inputs_BT, dataloader.sequence_batch(0, 8).inputs_BT)
    off = build_dataloader(dataset, replace(config, batches={"augmentation": None}), SPEC)
    assert off.augmentation is None
    assert all(torch.equal(a.inputs_BT, b.inputs_BT) for a, b in zip(dataloader.val_batches, off.val_batches, strict=True))


def test_settings_and_tokens_that_do_not_fit_are_refused(dataset):
    with pytest.raises(ConfigError, match="max_semitones_up must be from 0 to 12, got 13"):
        build_dataloader(dataset, TrainConfig(max_steps=2000, batches={"augmentation": {"max_semitones_up": 13}}), SPEC)
    without = type(dataset)(dataset.train, dataset.val, dataset.vocab_size, dataset.special_tokens)
    with pytest.raises(DataError, match="must have one of the classes Pitch"):
        build_augmentation(without, AugmentationConfig(), 0)
