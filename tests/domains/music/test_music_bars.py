"""Test sequences of whole bars: windows, bar numbers and attributes."""

from types import SimpleNamespace

import numpy as np
import pytest

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import TokenDataset
from provenlm.domains.music.content.score import write_score
from provenlm.domains.music.tokenize.bar_batches import (
    IGNORE,
    NUM_ATTRIBUTE_CLASSES,
    BarSequences,
    bar_sequences,
    classify_attributes,
    measure_bars,
)
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig
from provenlm.domains.music.tokenize.spec import SPEC
from tests.domains.music.eval_contexts import corpus
from tests.domains.music.scores import make_score

BEAT = 480
TWO_BARS = make_score([(0, BEAT, 60), (0, BEAT, 64), (BEAT, BEAT, 67), (4 * BEAT, BEAT, 60), (4 * BEAT, BEAT, 64)])


@pytest.fixture(scope="module")
def remi():
    return MidiTokenizer(MidiTokenizerConfig())


@pytest.fixture(scope="module")
def dataset() -> TokenDataset:
    return corpus()


def all_rows(sequences: BarSequences):
    """Yield (inputs, targets, bars, attributes) of every window, without padding."""
    for index in range(len(sequences)):
        batch = sequences.get_batch(np.array([index]))
        yield tuple(tensor[0].numpy() for tensor in (batch.inputs_BT, batch.targets_BT, batch.bars_BT, batch.attributes_BNA))


@pytest.mark.parametrize("seq_len", [8, 48, 5000])
def test_every_token_after_the_first_of_a_piece_is_a_target_once(dataset, seq_len):
    targets = np.concatenate([row[1] for row in all_rows(bar_sequences(dataset.train, dataset, seq_len))])
    ids, starts = dataset.train.ids, dataset.train.doc_offsets[:-1]
    assert targets.tolist() == np.delete(ids, starts).tolist()


def test_windows_start_at_bars_unless_a_bar_is_too_long(dataset):
    bar, bos = dataset.token_classes["Bar"][0], dataset.special_tokens["bos"]
    assert {row[0][0] for row in all_rows(bar_sequences(dataset.train, dataset, 64))} == {bar, bos}
    assert not {row[0][0] for row in all_rows(bar_sequences(dataset.train, dataset, 8))} <= {bar, bos}


def test_the_bar_number_follows_from_the_inputs_read_so_far(dataset):
    """The number must not tell that the next token is a bar token."""
    bar, bos = dataset.token_classes["Bar"][0], dataset.special_tokens["bos"]
    for inputs, _, bars, _ in all_rows(bar_sequences(dataset.train, dataset, 64)):
        begins_whole = inputs[0] in (bar, bos)
        assert bars.tolist() == np.maximum(np.cumsum(inputs == bar) - begins_whole, 0).tolist()


def test_padding_has_no_loss_and_stays_in_the_last_bar(dataset):
    sequences = bar_sequences(dataset.train, dataset, 64)
    batch = sequences.get_batch(np.arange(len(sequences)))
    padding = batch.targets_BT == IGNORE
    assert padding.any()
    assert (batch.inputs_BT[padding] == dataset.special_tokens["pad"]).all()
    assert (batch.bars_BT[padding] == batch.bars_BT[:, -1:].expand_as(padding)[padding]).all()
    assert batch.num_targets == int((~padding).sum()) == len(dataset.train.ids) - len(dataset.train.record_ids)
    assert batch.attributes_BNA.shape[1] == int(batch.bars_BT.max()) + 1


def test_a_batch_depends_on_its_indices_alone(dataset):
    sequences = bar_sequences(dataset.train, dataset, 64)
    batch = sequences.get_batch(np.array([3, 1]))
    alone = sequences.get_batch(np.array([1]))
    assert batch.inputs_BT[1, : alone.seq_len].tolist() == alone.inputs_BT[0].tolist()
    assert batch.select(slice(1, 2)).num_targets == alone.num_targets


def test_attributes_count_onsets_and_notes_of_an_onset(remi):
    ids = remi.encode_content(write_score(TWO_BARS))
    values = measure_bars(ids, remi.token_classes).values_GA
    assert values.tolist() == [[0, 0], [2, 1.5], [1, 2]]
    assert classify_attributes(values).tolist() == [[0, 0], [2, 2], [1, 3]]


def test_attribute_classes_are_below_their_number():
    classes = classify_attributes(np.array([[0.0, 0.0], [99.0, 99.0]]))
    assert classes.tolist() == [[0, 0], [NUM_ATTRIBUTE_CLASSES[0] - 1, NUM_ATTRIBUTE_CLASSES[1] - 1]]


def test_attributes_of_a_window_are_those_of_its_bars(dataset):
    """The sequence of attributes over all windows of a piece is that of the piece."""
    table = measure_bars(dataset.train.ids, dataset.token_classes)
    expected = classify_attributes(table.values_GA)[1:]
    rows = [row[3] for row in all_rows(bar_sequences(dataset.train, dataset, 64))]
    assert np.concatenate(rows).tolist() == expected.tolist()


@pytest.mark.parametrize(("bars", "number"), [({}, 0), ({"Bar": np.arange(3, 9)}, 6)])
def test_tokens_without_one_bar_token_are_refused(dataset, bars, number):
    """Octuple has a token for each bar number, MIDILike none."""
    classes = {name: ids for name, ids in dataset.token_classes.items() if name != "Bar"} | bars
    other = TokenDataset(dataset.train, dataset.val, dataset.vocab_size, dataset.special_tokens, classes)
    with pytest.raises(ConfigError, match=f"with {number} bar tokens, got bars"):
        bar_sequences(dataset.train, other, 64)


def test_a_recipe_with_the_layout_bars_trains_on_bar_batches(dataset):
    for layout, expected in (("bars", True), ("tokens", False)):
        config = SimpleNamespace(batches={"layout": layout}, seq_len=64)
        assert SPEC.sequences is not None
        assert isinstance(SPEC.sequences(dataset.train, dataset, config), BarSequences) is expected
