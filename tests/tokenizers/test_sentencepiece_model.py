import inspect
import json
import random
import textwrap

import pytest
import sentencepiece

from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.tokenizers import sentencepiece_model
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer, train_sentencepiece_tokenizer

CODE = inspect.getsource(textwrap) + inspect.getsource(json)


def record(body: str | bytes) -> Record:
    return Record.from_content(body if isinstance(body, bytes) else body.encode(), "text/plain", "here")


@pytest.fixture(scope="module")
def codec() -> SentencePieceTokenizer:
    return train_sentencepiece_tokenizer(lambda: [record(CODE)], 700, 0.9995, 10**6)


def back(codec: SentencePieceTokenizer, body: bytes) -> bytes:
    (ids,) = codec.encode([record(body)])
    return codec.decode(ids.tolist())


BODIES = {
    "empty": "",
    "source code": CODE,
    "tabs and indentation": "\tif x:\n\t\t  y = 1\n        z\n",
    "spaces at both ends": "   a   ",
    "only spaces": " " * 999,
    "runs of newlines": "a\n\n\n\n\nb\n",
    "only newlines": "\n\n\n",
    "CRLF and CR": "a\r\nb\rc\r\n\r\n",
    "the sign that stands for a space": "a▁b ▁▁ c▁",
    "the sign that is mistaken for it": "a_b ▂ ▔",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "NUL": "a\0b\0\0",
    "names of special tokens": "<s> </s> <pad> <unk> <0x41> <0xE2>",
    "unassigned and last code points": "\ufffe\uffff\U0010ffff\ue000",
    "replacement and byte order": "\ufeff \ufffd",
    "emoji joined": "😀 👩‍👩‍👧‍👦 🏳️‍🌈",
    "decomposed and compatibility forms": "e\u0301 é ﬁ ½ Å Å",
    "scripts": "日本語 ภาษาไทย العربية עברית हिन्दी Ελληνικά",
    "odd spaces": "a\u00a0b\u2003c\u3000d\u2028e\u200bf",
    "a line longer than any sample": "x" * 20_000 + " y" * 5_000,
}


@pytest.mark.parametrize("name", BODIES)
def test_text_comes_back_byte_for_byte(codec, name):
    assert back(codec, BODIES[name].encode()) == BODIES[name].encode()


def test_bytes_that_are_no_utf8_come_back_too(codec):
    for body in (b"\xff\xfe", b"caf\xe9 latin", b"\xe2\x96", b"ok \xed\xa0\x80 surrogate", "▁".encode() + b"\x81\xe2"):
        assert back(codec, body) == body


def test_a_thousand_random_bodies_come_back(codec):
    random_ = random.Random(0)
    for _ in range(500):
        text = "".join(
            chr(random_.choice([random_.randrange(0xD800), random_.randrange(0xE000, 0x110000), 32, 10, 9, 0x2581]))
            for _ in range(20)
        )
        assert back(codec, text.encode()) == text.encode()
        noise = random_.randbytes(20)
        assert back(codec, noise) == noise


def test_decoding_equals_that_of_sentencepiece_where_it_can(codec):
    (ids,) = codec.encode([record(CODE)])
    assert codec._pieces.decode(ids.tolist()) == CODE


def test_encoding_gives_no_special_token_even_for_text_that_spells_one(codec):
    (ids,) = codec.encode([record("<s> </s> <pad> <unk>" + CODE)])
    assert ids.min() > 3
    assert ids.max() < codec.vocabulary


def test_special_tokens_have_the_ids_declared_and_are_left_out_when_decoding(codec):
    assert codec.special == {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    (ids,) = codec.encode([record("def")])
    assert codec.decode([2, *ids.tolist(), 3, 0, 0, 1]) == b"def"


def test_a_prompt_begins_as_a_document_does(codec):
    (ids,) = codec.encode([record("def f")])
    assert codec.prompt("def f") == [2, *ids.tolist()]


def test_newlines_and_tabs_are_one_token_each(codec):
    (ids,) = codec.encode([record("\n\n\n\t")])
    assert len(ids) == 3


def test_tokens_for_single_bytes_are_counted(codec):
    (ids,) = codec.encode([record("def ☃ def")])  # a snowman is three bytes that no piece covers
    assert codec.unlearned(ids) == 3


def test_the_vocabulary_is_what_was_asked_for(codec):
    assert codec.vocabulary == 700


def test_the_same_records_give_the_same_model(codec, tmp_path):
    train_sentencepiece_tokenizer(lambda: [record(CODE)], 700, 0.9995, 10**6).save(tmp_path / "again")
    codec.save(tmp_path / "first")
    for name in ("tokenizer.model", "codec.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_saved_codec_encodes_as_before(codec, tmp_path):
    codec.save(tmp_path)
    loaded = sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)
    assert loaded.encode([record(CODE)])[0].tolist() == codec.encode([record(CODE)])[0].tolist()
    assert (loaded.vocab_size, loaded.special_tokens) == (codec.vocabulary, codec.special)


def test_a_damaged_model_is_refused(codec, tmp_path):
    codec.save(tmp_path)
    model = tmp_path / "tokenizer.model"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(ProvenlmError, match=r"tokenizer\.model is not the file that codec\.json describes; run tokenize again"):
        sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)


def test_a_missing_codec_is_refused_by_name(tmp_path):
    with pytest.raises(ProvenlmError, match="not readable as a SentencePiece codec"):
        sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)


def test_a_vocabulary_larger_than_the_text_gives_is_refused_with_the_largest_that_fits():
    with pytest.raises(ProvenlmError, match=r"tokenize\.vocabulary: 5000 is more than this text gives; at most \d+"):
        train_sentencepiece_tokenizer(lambda: [record("hello world, hello")], 5000, 1.0, 10**6)


def test_a_vocabulary_smaller_than_the_characters_is_refused_with_the_least_that_fits():
    with pytest.raises(ProvenlmError, match=r"300 is less than the characters of this text; at least \d+"):
        train_sentencepiece_tokenizer(lambda: [record("".join(map(chr, range(0x4E00, 0x4F00))))], 300, 1.0, 10**6)


def test_no_text_is_refused():
    with pytest.raises(ProvenlmError, match="no text to learn from"):
        train_sentencepiece_tokenizer(lambda: [record("\n")], 700, 1.0, 10**6)


def test_the_sample_is_bounded_and_the_same_for_any_order():
    items = [record(f"line {i} " + "x" * 91) for i in range(2000)]
    lines = sentencepiece_model.sample_text(lambda: items, 20_000)
    assert 15_000 < sum(map(len, lines)) < 25_000
    assert sorted(sentencepiece_model.sample_text(lambda: items[::-1], 20_000)) == sorted(lines)


def test_a_record_longer_than_the_sample_gives_its_share_and_not_all_or_nothing():
    items = [record(f"line {i} " + "x" * 91) for i in range(20)]
    items.append(record("é" + "\n".join(f"row {i} of a dump" for i in range(500_000))))
    lines = sentencepiece_model.sample_text(lambda: items, 1_000_000)
    assert 500_000 < sum(map(len, lines)) < 1_500_000
    assert sentencepiece_model.sample_text(lambda: items, 10**9) == [line for item in items for line in item.text.split("\n")]


def test_no_line_of_the_sample_is_so_long_that_it_would_be_left_out():
    lines = sentencepiece_model.sample_text(lambda: [record("é" * 10_000)], 10**6)
    assert "".join(lines) == "é" * 10_000
    assert max(len(line.encode()) for line in lines) <= 8 * sentencepiece_model.MAX_LINE_CHARS


def test_byte_pairs_of_a_text_are_those_that_sentencepiece_gives_it_as_a_whole(codec):
    whole, draw = sentencepiece.SentencePieceProcessor(model_proto=codec.model), random.Random(4)
    for _ in range(300):
        begin = draw.randrange(len(CODE))
        text = CODE[begin : begin + draw.randint(1, 900)] + "".join(draw.choices("a  \n\n\té0 _", k=draw.randint(0, 12)))
        (ids,) = codec.encode([record(text)])
        assert ids.tolist() == whole.encode(text)


@pytest.fixture(scope="module")
def unigram() -> SentencePieceTokenizer:
    return train_sentencepiece_tokenizer(lambda: [record(CODE)], 800, 0.9995, 10**7, "unigram")


def test_a_unigram_model_reads_each_line_as_sentencepiece_reads_it_alone_and_gives_it_back(unigram):
    alone = sentencepiece.SentencePieceProcessor(model_proto=unigram.model)
    newline, two = alone.piece_to_id("\n"), alone.piece_to_id("\n\n")
    (ids,) = unigram.encode([record("def f(x):\n\n\n    return self")])
    assert ids.tolist() == [*alone.encode("def f(x):"), two, newline, *alone.encode("    return self")]
    for body in BODIES.values():
        assert back(unigram, body.encode()) == body.encode()


def test_scores_of_a_unigram_model_are_sixteenths_and_nothing_else_of_it_is_changed(unigram):
    scores = unigram.pieces().scores.values()
    assert all((16 * score).is_integer() for score in scores)
    assert len(set(scores)) > 20
    assert sentencepiece_model.round_scores(unigram.model) == unigram.model


def test_the_fields_of_a_message_are_found_by_number():
    message = b"\x0a\x03abc" + b"\x15\x00\x00\x80\x3f" + b"\x18\x96\x01" + b"\x21" + bytes(8)
    assert list(sentencepiece_model.iter_protobuf_fields(message, 0, len(message))) == [
        (1, 2, 5),
        (2, 6, 10),
        (3, 11, 13),
        (4, 14, 22),
    ]
