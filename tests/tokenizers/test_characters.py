"""Encode strings by character."""

import pytest

from provenlm.core.errors import DataError
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import train_character_tokenizer


def record(content: str | bytes) -> Record:
    return Record.from_content(content if isinstance(content, bytes) else content.encode(), "text/plain", "here")


def test_each_character_has_an_id_in_order_of_code_points_and_padding_has_0():
    tokenizer = train_character_tokenizer([record("bca"), record("a1")], add_eos=False)
    assert [ids.tolist() for ids in tokenizer.encode([record("1abc")])] == [[1, 2, 3, 4]]
    assert (tokenizer.vocab_size, tokenizer.special_tokens) == (5, {"pad": 0})


def test_decoding_restores_the_text_and_omits_padding():
    tokenizer = train_character_tokenizer([record("añ\n😀")], add_eos=False)
    (ids,) = tokenizer.encode([record("😀ña\n")])
    assert tokenizer.decode([*ids.tolist(), 0, 0]) == "😀ña\n".encode()


def test_eos_has_the_last_id_and_is_not_decoded():
    tokenizer = train_character_tokenizer([record("ab")], add_eos=True)
    assert (tokenizer.vocab_size, tokenizer.special_tokens) == (4, {"pad": 0, "eos": 3})
    assert tokenizer.decode([1, 2, 3, 0]) == b"ab"


def test_a_prompt_has_no_special_tokens():
    assert train_character_tokenizer([record("ABC")], add_eos=False).encode_prompt("CA") == [3, 1]


def test_no_token_is_unknown():
    tokenizer = train_character_tokenizer([record("AB")], add_eos=False)
    assert tokenizer.count_unknown(tokenizer.encode([record("ABBA")])[0]) == 0


def test_an_unknown_character_is_refused_by_name():
    with pytest.raises(DataError, match="every character must be one of 'AB', got 'z'"):
        train_character_tokenizer([record("AB")], add_eos=False).encode([record("Az")])


def test_content_that_is_not_utf8_is_refused_with_its_source():
    with pytest.raises(DataError, match=r"from here: not UTF-8 \(invalid start byte at byte 1\)"):
        train_character_tokenizer([record(b"a\xff")], add_eos=False)


@pytest.mark.parametrize("add_eos", [False, True])
def test_a_loaded_tokenizer_equals_the_saved_one(tmp_path, add_eos):
    tokenizer = train_character_tokenizer([record('a"\\\n\u2028')], add_eos=add_eos)
    tokenizer.save(tmp_path)
    loaded = characters.load_character_tokenizer(tmp_path)
    assert (loaded.characters, loaded.special_tokens) == (tokenizer.characters, tokenizer.special_tokens)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"type": "sentencepiece"}',
        '{"type": "characters"}',
        '{"type": "characters", "characters": "aa", "add_eos": true}',
        '{"type": "characters", "characters": "ab", "add_eos": 1}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(DataError, match="cannot load a character tokenizer"):
        characters.load_character_tokenizer(tmp_path)
