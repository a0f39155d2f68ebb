"""What fastokens gives beside what SentencePiece gives, and what happens when they differ."""

import inspect
import json
import pickle
import textwrap

import numpy as np
import pytest

from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.fastokens_backend import FastokensBackend, attach_verified_backend

TEXT = inspect.getsource(textwrap) + inspect.getsource(json)
BODIES = [TEXT[i : i + 700].encode() for i in range(0, len(TEXT), 700)] + [b"caf\xe9 \xff\xfe", "▁ é".encode(), b""]


def records():
    return [Record.from_content(body, "text/plain", f"file {place}") for place, body in enumerate(BODIES)]


@pytest.fixture(scope="module")
def slow():
    return sentencepiece_model.train_sentencepiece_tokenizer(records, 700, 0.9995, 10**6)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.encode(records()), other.encode(records()), strict=True))


def test_the_fast_codec_gives_the_ids_of_sentencepiece_for_every_record_bytes_that_are_no_text_too(slow):
    quick = attach_verified_backend(slow, records)
    assert quick.backend is not None
    assert equal(quick, slow)


def test_texts_made_to_confuse_are_among_those_that_are_compared():
    sources = [record.source for record in fastokens_backend.sample_records(records)]
    assert len(sources) == len(fastokens_backend.ADVERSARIAL_TEXTS) + len(BODIES)
    assert "the text '<s></s><pad><unk>'" in sources


def test_a_codec_that_is_sent_to_another_process_stays_fast(slow):
    sent = pickle.loads(pickle.dumps(attach_verified_backend(slow, records)))
    assert sent.fast is not None
    assert equal(sent, slow)


def test_one_different_id_leaves_the_work_to_sentencepiece_with_a_line_that_names_the_text(slow, monkeypatch, capsys):
    """The planted fault: one merge of many is missing."""

    class Faulty(FastokensBackend):
        def __init__(self, published):
            made = json.loads(published)
            del made["model"]["merges"][3]
            super().__init__(json.dumps(made))

    monkeypatch.setattr(fastokens_backend, "Fastokens", Faulty)
    kept = attach_verified_backend(slow, records)
    assert kept.backend is None
    said = capsys.readouterr().out
    assert "encodes " in said
    assert "otherwise than SentencePiece does, which will encode alone, slower" in said


def test_a_unigram_model_is_left_to_sentencepiece():
    codec = sentencepiece_model.train_sentencepiece_tokenizer(records, 700, 0.9995, 10**6, "unigram")
    assert attach_verified_backend(codec, records) is codec
