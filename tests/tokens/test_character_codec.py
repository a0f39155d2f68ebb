import pytest

from provenlm.core.errors import UserError
from provenlm.core.record import Record
from provenlm.tokens import character_codec
from provenlm.tokens.character_codec import learn


def record(body: str | bytes) -> Record:
    return Record.of(body if isinstance(body, bytes) else body.encode(), "text/plain", "here")


def test_each_character_has_an_id_in_order_of_code_points_and_padding_has_0():
    codec = learn([record("bca"), record("a1")])
    assert [ids.tolist() for ids in codec.encode([record("1abc")])] == [[1, 2, 3, 4]]
    assert (codec.vocabulary, codec.special) == (5, {"pad": 0})


def test_text_comes_back_and_padding_is_left_out():
    codec = learn([record("añ\n😀")])
    (ids,) = codec.encode([record("😀ña\n")])
    assert codec.decode([*ids.tolist(), 0, 0]) == "😀ña\n".encode()


def test_a_prompt_is_its_characters_alone():
    assert learn([record("ABC")]).prompt("CA") == [3, 1]


def test_no_token_is_unlearned():
    codec = learn([record("AB")])
    assert codec.unlearned(codec.encode([record("ABBA")])[0]) == 0


def test_an_unknown_character_is_refused_by_name():
    with pytest.raises(UserError, match="no id for the character 'z'; the 2 known: AB"):
        learn([record("AB")]).encode([record("Az")])


def test_a_body_that_is_no_utf8_is_refused_with_its_source():
    with pytest.raises(UserError, match=r"from here: not UTF-8 \(invalid start byte at byte 1\)"):
        learn([record(b"a\xff")])


def test_a_saved_codec_is_the_same(tmp_path):
    codec = learn([record('a"\\\n\u2028')])
    codec.save(tmp_path)
    assert character_codec.load(tmp_path).characters == codec.characters


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kind": "sentencepiece"}', '{"kind": "characters"}', '{"kind": "characters", "characters": "aa"}']
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "codec.json").write_text(text)
    with pytest.raises(UserError, match="not readable as a character codec"):
        character_codec.load(tmp_path)
