"""Compare the ids of fastokens with those of SentencePiece, and plant a difference."""

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
CONTENTS = [TEXT[i : i + 700].encode() for i in range(0, len(TEXT), 700)] + [b"caf\xe9 \xff\xfe", "▁ é".encode(), b""]


def records():
    return [Record.from_content(content, "text/plain", f"file {index}") for index, content in enumerate(CONTENTS)]


@pytest.fixture(scope="module")
def slow():
    return sentencepiece_model.train_sentencepiece_tokenizer(records, 700, 0.9995, 10**6)


def equal_ids(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.encode(records()), second.encode(records()), strict=True))


def test_fastokens_gives_the_ids_of_sentencepiece_for_every_record(slow):
    fast = attach_verified_backend(slow, records)
    assert fast.backend is not None
    assert equal_ids(fast, slow)


def test_adversarial_texts_are_compared():
    sources = [record.source for record in fastokens_backend.sample_records(records)]
    assert len(sources) == len(fastokens_backend.ADVERSARIAL_TEXTS) + len(CONTENTS)
    assert "the text '<s></s><pad><unk>'" in sources


def test_a_pickled_tokenizer_keeps_its_backend(slow):
    sent = pickle.loads(pickle.dumps(attach_verified_backend(slow, records)))
    assert sent.backend is not None
    assert equal_ids(sent, slow)


def test_one_different_id_falls_back_to_sentencepiece_and_logs_the_text(slow, monkeypatch, capsys):
    """The planted fault: one merge of many is missing."""

    class Faulty(FastokensBackend):
        def __init__(self, tokenizer_json):
            parsed = json.loads(tokenizer_json)
            del parsed["model"]["merges"][3]
            super().__init__(json.dumps(parsed))

    monkeypatch.setattr(fastokens_backend, "FastokensBackend", Faulty)
    verified = attach_verified_backend(slow, records)
    assert verified.backend is None
    output = capsys.readouterr()
    assert "and SentencePiece give different ids for " in output.out + output.err


def test_a_unigram_model_gets_no_backend():
    tokenizer = sentencepiece_model.train_sentencepiece_tokenizer(records, 700, 0.9995, 10**6, "unigram")
    assert attach_verified_backend(tokenizer, records) is tokenizer
