import pytest

from provenlm.core.errors import UserError
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import learn


def record(body: str | bytes) -> Record:
    return Record.of(body if isinstance(body, bytes) else body.encode(), "text/plain", "here")


def test_each_character_has_an_id_in_order_of_code_points_and_padding_has_0():
    codec = learn([record("bca"), record("a1")], end=False)
    assert [ids.tolist() for ids in codec.encode([record("1abc")])] == [[1, 2, 3, 4]]
    assert (codec.vocabulary, codec.special) == (5, {"pad": 0})


def test_text_comes_back_and_padding_is_left_out():
    codec = learn([record("añ\n😀")], end=False)
    (ids,) = codec.encode([record("😀ña\n")])
    assert codec.decode([*ids.tolist(), 0, 0]) == "😀ña\n".encode()


def test_the_end_of_a_text_has_the_last_id_and_is_left_out_of_the_text():
    codec = learn([record("ab")], end=True)
    assert (codec.vocabulary, codec.special) == (4, {"pad": 0, "eos": 3})
    assert codec.decode([1, 2, 3, 0]) == b"ab"


def test_a_prompt_is_its_characters_alone():
    assert learn([record("ABC")], end=False).prompt("CA") == [3, 1]


def test_no_token_is_unlearned():
    codec = learn([record("AB")], end=False)
    assert codec.unlearned(codec.encode([record("ABBA")])[0]) == 0


def test_an_unknown_character_is_refused_by_name():
    with pytest.raises(UserError, match="no id for the character 'z'; the 2 known: AB"):
        learn([record("AB")], end=False).encode([record("Az")])


def test_a_body_that_is_no_utf8_is_refused_with_its_source():
    with pytest.raises(UserError, match=r"from here: not UTF-8 \(invalid start byte at byte 1\)"):
        learn([record(b"a\xff")], end=False)


@pytest.mark.parametrize("end", [False, True])
def test_a_saved_codec_is_the_same(tmp_path, end):
    codec = learn([record('a"\\\n\u2028')], end=end)
    codec.save(tmp_path)
    again = characters.load(tmp_path)
    assert (again.characters, again.special) == (codec.characters, codec.special)


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
    with pytest.raises(UserError, match="not readable as a character codec"):
        characters.load(tmp_path)
