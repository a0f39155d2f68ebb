"""Compare our tokenizers with their exports, loaded by Hugging Face's library."""

import argparse
import inspect
import json
import random

import pytest
import tokenizers
import transformers

from provenlm.core.errors import ConfigError, DataError
from provenlm.core.records import Record
from provenlm.tokenizers import characters, sentencepiece_model
from provenlm.tokenizers.hf_export import bpe_merges, tokenizer_to_hf, unigram_model

TEXT = inspect.getsource(argparse)
PARTS = [
    "a",
    "b",
    "self",
    "def",
    "0",
    "17",
    "(",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "▁",
    "<s>",
    "</s>",
    "<0x0A>",
    "é",
    "漢",
    "\x00",
    "\ufeff",
]


def trained(model):
    return sentencepiece_model.train_sentencepiece_tokenizer(
        lambda: [Record.from_content(TEXT.encode(), "text/plain", "test")], 900, 0.9995, 10**7, model
    )


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request):
    return trained(request.param)


def exported(tokenizer):
    loaded = tokenizers.Tokenizer.from_str(tokenizer_to_hf(tokenizer, 100)["tokenizer.json"].decode())
    loaded.encode_special_tokens = json.loads(tokenizer_to_hf(tokenizer, 100)["tokenizer_config.json"])["split_special_tokens"]
    return loaded


def test_training_text_gets_the_same_ids(tokenizer):
    hf_tokenizer, draw = exported(tokenizer), random.Random(1)
    for _ in range(300):
        begin = draw.randrange(len(TEXT))
        text = TEXT[begin : begin + draw.randint(1, 2000)]
        assert hf_tokenizer.encode(text).ids == tokenizer.encode_prompt(text)


def test_adversarial_texts_get_the_same_ids_and_decode_to_themselves(tokenizer):
    hf_tokenizer, draw = exported(tokenizer), random.Random(2)
    for _ in range(2000):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 25)))
        assert hf_tokenizer.encode(text).ids == tokenizer.encode_prompt(text)
        assert hf_tokenizer.decode(tokenizer.encode_prompt(text), skip_special_tokens=True) == text


def test_a_unigram_model_with_unrounded_scores_is_refused():
    with pytest.raises(DataError, match=r"unigram scores must be multiples of 1/16"):
        unigram_model({"<unk>": 0, "a": 1}, {"a": -1.03})


def test_autotokenizer_loads_the_export_and_gives_the_same_ids(tokenizer, tmp_path):
    for name, data in tokenizer_to_hf(tokenizer, 100_000).items():
        (tmp_path / name).write_bytes(data)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT[:5000] + "<s> é ▁ <0x0A>\n\n\n"
    assert loaded(text)["input_ids"] == tokenizer.encode_prompt(text)
    assert loaded.decode(tokenizer.encode_prompt(text), skip_special_tokens=True) == text


def test_merges_in_reverse_order_give_other_ids():
    """The planted fault: merges from the last learned to the first."""
    tokenizer = trained("bpe")
    loaded = json.loads(tokenizer_to_hf(tokenizer, 100)["tokenizer.json"])
    loaded["model"]["merges"].reverse()
    hf_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(loaded))
    assert hf_tokenizer.encode(TEXT[:2000]).ids != tokenizer.encode_prompt(TEXT[:2000])


def test_merges_are_all_pairs_that_join_to_a_piece():
    assert bpe_merges({"a": 0, "b": 1, "ab": 2, "abb": 3, "bb": 4}, ["ab", "bb", "abb", "a"]) == [
        ("a", "b"),
        ("b", "b"),
        ("a", "bb"),
        ("ab", "b"),
    ]


def test_a_character_tokenizer_gets_the_same_ids():
    tokenizer = characters.train_character_tokenizer([Record.from_content("12 AB▁é".encode(), "text/plain", "test")], add_eos=False)
    assert exported(tokenizer).encode("BA é▁21").ids == tokenizer.encode_prompt("BA é▁21")
    assert exported(tokenizer).decode(tokenizer.encode_prompt("BA é▁21")) == "BA é▁21"


def test_a_tokenizer_of_anything_but_text_is_refused():
    class Grid:
        pass

    with pytest.raises(ConfigError, match="must be a text tokenizer to be exported to Hugging Face, got Grid"):
        tokenizer_to_hf(Grid(), 100)
