import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import train_character_tokenizer


def record(body: str | bytes) -> Record:
    return Record.from_content(body if isinstance(body, bytes) else body.encode(), "text/plain", "here")


def test_each_character_has_an_id_in_order_of_code_points_and_padding_has_0():
    codec = train_character_tokenizer([record("bca"), record("a1")], add_eos=False)
    assert [ids.tolist() for ids in codec.encode([record("1abc")])] == [[1, 2, 3, 4]]
    assert (codec.vocab_size, codec.special_tokens) == (5, {"pad": 0})


def test_text_comes_back_and_padding_is_left_out():
    codec = train_character_tokenizer([record("añ\n😀")], add_eos=False)
    (ids,) = codec.encode([record("😀ña\n")])
    assert codec.decode([*ids.tolist(), 0, 0]) == "😀ña\n".encode()


def test_the_end_of_a_text_has_the_last_id_and_is_left_out_of_the_text():
    codec = train_character_tokenizer([record("ab")], add_eos=True)
    assert (codec.vocab_size, codec.special_tokens) == (4, {"pad": 0, "eos": 3})
    assert codec.decode([1, 2, 3, 0]) == b"ab"


def test_a_prompt_is_its_characters_alone():
    assert train_character_tokenizer([record("ABC")], add_eos=False).encode_prompt("CA") == [3, 1]


def test_no_token_is_unlearned():
    codec = train_character_tokenizer([record("AB")], add_eos=False)
    assert codec.count_unknown(codec.encode([record("ABBA")])[0]) == 0


def test_an_unknown_character_is_refused_by_name():
    with pytest.raises(ProvenlmError, match="no id for the character 'z'; the 2 known: AB"):
        train_character_tokenizer([record("AB")], add_eos=False).encode([record("Az")])


def test_a_body_that_is_no_utf8_is_refused_with_its_source():
    with pytest.raises(ProvenlmError, match=r"from here: not UTF-8 \(invalid start byte at byte 1\)"):
        train_character_tokenizer([record(b"a\xff")], add_eos=False)


@pytest.mark.parametrize("end", [False, True])
def test_a_saved_codec_is_the_same(tmp_path, end):
    codec = train_character_tokenizer([record('a"\\\n\u2028')], add_eos=end)
    codec.save(tmp_path)
    again = characters.load_character_tokenizer(tmp_path)
    assert (again.characters, again.special_tokens) == (codec.characters, codec.special_tokens)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kind": "sentencepiece"}',
        '{"kind": "characters"}',
        '{"kind": "characters", "characters": "aa", "end": true}',
        '{"kind": "characters", "characters": "ab", "end": 1}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "codec.json").write_text(text)
    with pytest.raises(ProvenlmError, match="not readable as a character codec"):
        characters.load_character_tokenizer(tmp_path)
