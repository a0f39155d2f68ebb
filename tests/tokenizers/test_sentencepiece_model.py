"""Train, save and run SentencePiece tokenizers on text that is hard to restore."""

import inspect
import json
import random
import textwrap

import pytest
import sentencepiece

from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record
from provenlm.tokenizers import sentencepiece_model
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer, train_sentencepiece_tokenizer

CODE = inspect.getsource(textwrap) + inspect.getsource(json)


def record(content: str | bytes) -> Record:
    return Record.from_content(content if isinstance(content, bytes) else content.encode(), "text/plain", "here")


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece_tokenizer(lambda: [record(CODE)], 700, 0.9995, 10**6)


def round_trip(tokenizer: SentencePieceTokenizer, content: bytes) -> bytes:
    (ids,) = tokenizer.encode([record(content)])
    return tokenizer.decode(ids.tolist())


CONTENTS = {
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


@pytest.mark.parametrize("name", CONTENTS)
def test_decoding_restores_text_byte_for_byte(tokenizer, name):
    assert round_trip(tokenizer, CONTENTS[name].encode()) == CONTENTS[name].encode()


def test_decoding_restores_bytes_that_are_not_utf8(tokenizer):
    for content in (b"\xff\xfe", b"caf\xe9 latin", b"\xe2\x96", b"ok \xed\xa0\x80 surrogate", "▁".encode() + b"\x81\xe2"):
        assert round_trip(tokenizer, content) == content


def test_a_thousand_random_contents_come_round_trip(tokenizer):
    random_ = random.Random(0)
    for _ in range(500):
        text = "".join(
            chr(random_.choice([random_.randrange(0xD800), random_.randrange(0xE000, 0x110000), 32, 10, 9, 0x2581]))
            for _ in range(20)
        )
        assert round_trip(tokenizer, text.encode()) == text.encode()
        noise = random_.randbytes(20)
        assert round_trip(tokenizer, noise) == noise


def test_decoding_equals_sentencepiece_on_utf8_text(tokenizer):
    (ids,) = tokenizer.encode([record(CODE)])
    assert tokenizer._processor.decode(ids.tolist()) == CODE


def test_encoding_never_returns_a_special_token(tokenizer):
    (ids,) = tokenizer.encode([record("<s> </s> <pad> <unk>" + CODE)])
    assert ids.min() > 3
    assert ids.max() < tokenizer.vocab_size


def test_special_tokens_have_fixed_ids_and_are_not_decoded(tokenizer):
    assert tokenizer.special_tokens == {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    (ids,) = tokenizer.encode([record("def")])
    assert tokenizer.decode([2, *ids.tolist(), 3, 0, 0, 1]) == b"def"


def test_a_prompt_starts_with_bos_like_a_document(tokenizer):
    (ids,) = tokenizer.encode([record("def f")])
    assert tokenizer.encode_prompt("def f") == [2, *ids.tolist()]


def test_newlines_and_tabs_are_one_token_each(tokenizer):
    (ids,) = tokenizer.encode([record("\n\n\n\t")])
    assert len(ids) == 3


def test_byte_fallback_tokens_are_counted(tokenizer):
    (ids,) = tokenizer.encode([record("def ☃ def")])  # a snowman is three bytes that no piece covers
    assert tokenizer.count_unknown(ids) == 3


def test_the_vocabulary_has_the_configured_size(tokenizer):
    assert tokenizer.vocab_size == 700


def test_the_same_records_give_the_same_model(tokenizer, tmp_path):
    train_sentencepiece_tokenizer(lambda: [record(CODE)], 700, 0.9995, 10**6).save(tmp_path / "second")
    tokenizer.save(tmp_path / "first")
    for name in ("tokenizer.model", "metadata.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_loaded_tokenizer_encodes_like_the_saved_one(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)
    assert loaded.encode([record(CODE)])[0].tolist() == tokenizer.encode([record(CODE)])[0].tolist()
    assert (loaded.vocab_size, loaded.special_tokens) == (tokenizer.vocab_size, tokenizer.special_tokens)


def test_a_damaged_model_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    model = tmp_path / "tokenizer.model"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(DataError, match=r"the SHA-256 of tokenizer\.model differs from metadata\.json; run tokenize again"):
        sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="cannot load a SentencePiece tokenizer"):
        sentencepiece_model.load_sentencepiece_tokenizer(tmp_path)


def test_a_vocabulary_too_large_for_the_text_is_refused_with_the_limit():
    with pytest.raises(ConfigError, match=r"tokenize\.vocab_size must be <= \d+ for this text, got 5000"):
        train_sentencepiece_tokenizer(lambda: [record("hello world, hello")], 5000, 1.0, 10**6)


def test_a_vocabulary_too_small_for_the_characters_is_refused_with_the_limit():
    with pytest.raises(ConfigError, match=r"tokenize\.vocab_size must be >= \d+ for the characters of this text, got 300"):
        train_sentencepiece_tokenizer(lambda: [record("".join(map(chr, range(0x4E00, 0x4F00))))], 300, 1.0, 10**6)


def test_a_sample_without_text_is_refused():
    with pytest.raises(ConfigError, match="tokenize.sample_bytes: the sample contains no text"):
        train_sentencepiece_tokenizer(lambda: [record("\n")], 700, 1.0, 10**6)


def test_the_sample_is_bounded_and_independent_of_the_order():
    items = [record(f"line {i} " + "x" * 91) for i in range(2000)]
    lines = sentencepiece_model.sample_text(lambda: items, 20_000)
    assert 15_000 < sum(map(len, lines)) < 25_000
    assert sorted(sentencepiece_model.sample_text(lambda: items[::-1], 20_000)) == sorted(lines)


def test_a_record_longer_than_the_sample_is_sampled_in_blocks():
    items = [record(f"line {i} " + "x" * 91) for i in range(20)]
    items.append(record("é" + "\n".join(f"row {i} of a dump" for i in range(500_000))))
    lines = sentencepiece_model.sample_text(lambda: items, 1_000_000)
    assert 500_000 < sum(map(len, lines)) < 1_500_000
    assert sentencepiece_model.sample_text(lambda: items, 10**9) == [line for item in items for line in item.text.split("\n")]


def test_no_sampled_line_exceeds_the_limit_of_sentencepiece():
    lines = sentencepiece_model.sample_text(lambda: [record("é" * 10_000)], 10**6)
    assert "".join(lines) == "é" * 10_000
    assert max(len(line.encode()) for line in lines) <= 8 * sentencepiece_model.MAX_LINE_CHARS


def test_bpe_ids_equal_those_of_sentencepiece_on_the_whole_text(tokenizer):
    reference, draw = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_proto), random.Random(4)
    for _ in range(300):
        begin = draw.randrange(len(CODE))
        text = CODE[begin : begin + draw.randint(1, 900)] + "".join(draw.choices("a  \n\n\té0 _", k=draw.randint(0, 12)))
        (ids,) = tokenizer.encode([record(text)])
        assert ids.tolist() == reference.encode(text)


@pytest.fixture(scope="module")
def unigram() -> SentencePieceTokenizer:
    return train_sentencepiece_tokenizer(lambda: [record(CODE)], 800, 0.9995, 10**7, "unigram")


def test_a_unigram_model_reads_each_line_as_sentencepiece_reads_it_alone_and_gives_it_round_trip(unigram):
    reference = sentencepiece.SentencePieceProcessor(model_proto=unigram.model_proto)
    newline, double_newline = reference.piece_to_id("\n"), reference.piece_to_id("\n\n")
    (ids,) = unigram.encode([record("def f(x):\n\n\n    return self")])
    assert ids.tolist() == [*reference.encode("def f(x):"), double_newline, newline, *reference.encode("    return self")]
    for content in CONTENTS.values():
        assert round_trip(unigram, content.encode()) == content.encode()


def test_unigram_scores_are_sixteenths_and_rounding_is_idempotent(unigram):
    scores = unigram.export_vocab().scores.values()
    assert all((16 * score).is_integer() for score in scores)
    assert len(set(scores)) > 20
    assert sentencepiece_model.round_scores(unigram.model_proto) == unigram.model_proto


def test_protobuf_fields_are_iterated_by_number():
    message = b"\x0a\x03abc" + b"\x15\x00\x00\x80\x3f" + b"\x18\x96\x01" + b"\x21" + bytes(8)
    assert list(sentencepiece_model.iter_protobuf_fields(message, 0, len(message))) == [
        (1, 2, 5),
        (2, 6, 10),
        (3, 11, 13),
        (4, 14, 22),
    ]
