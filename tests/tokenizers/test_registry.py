"""Find the loader of a saved tokenizer by the type that its folder names."""

import pytest

from provenlm.core.errors import DataError
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.tokenizers.registry import load_tokenizer


@pytest.mark.parametrize("domain", ["text", "strings"])
def test_a_built_in_type_is_loaded_in_any_domain(tmp_path, domain):
    CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False).save(tmp_path)
    assert load_tokenizer(tmp_path, domain).encode_prompt("abs") == [1, 2, 19]


def test_another_type_is_left_to_the_loader_of_the_domain(tmp_path):
    (tmp_path / "metadata.json").write_text('{"type": "runes"}')
    with pytest.raises(DataError, match="type must be 'characters', got 'runes'; run tokenize again"):
        load_tokenizer(tmp_path, "strings")


def test_a_damaged_metadata_file_is_refused(tmp_path):
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json: cannot load a tokenizer"):
        load_tokenizer(tmp_path, "text")
