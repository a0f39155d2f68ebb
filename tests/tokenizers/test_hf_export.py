"""Our codecs beside the tokenizers that Hugging Face's library makes of what we publish."""

import argparse
import inspect
import json
import random

import pytest
import tokenizers
import transformers

from provenlm.core.errors import ProvenlmError
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


def learned(model):
    return sentencepiece_model.train_sentencepiece_tokenizer(
        lambda: [Record.from_content(TEXT.encode(), "text/plain", "test")], 900, 0.9995, 10**7, model
    )


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def codec(request):
    return learned(request.param)


def theirs(codec):
    made = tokenizers.Tokenizer.from_str(tokenizer_to_hf(codec, 100)["tokenizer.json"].decode())
    made.encode_special_tokens = json.loads(tokenizer_to_hf(codec, 100)["tokenizer_config.json"])["split_special_tokens"]
    return made


def test_every_piece_of_the_text_it_was_learned_from_gets_the_same_ids(codec):
    other, draw = theirs(codec), random.Random(1)
    for _ in range(300):
        begin = draw.randrange(len(TEXT))
        text = TEXT[begin : begin + draw.randint(1, 2000)]
        assert other.encode(text).ids == codec.prompt(text)


def test_texts_made_to_confuse_get_the_same_ids_and_come_back(codec):
    other, draw = theirs(codec), random.Random(2)
    for _ in range(2000):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 25)))
        assert other.encode(text).ids == codec.prompt(text)
        assert other.decode(codec.prompt(text), skip_special_tokens=True) == text


def test_a_unigram_model_whose_scores_are_not_rounded_is_refused_because_ids_would_differ():
    with pytest.raises(ProvenlmError, match="scores are not rounded"):
        unigram_model({"<unk>": 0, "a": 1}, {"a": -1.03})


def test_autotokenizer_loads_what_is_published_and_gives_the_same_ids(codec, tmp_path):
    for name, data in tokenizer_to_hf(codec, 100_000).items():
        (tmp_path / name).write_bytes(data)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT[:5000] + "<s> é ▁ <0x0A>\n\n\n"
    assert loaded(text)["input_ids"] == codec.prompt(text)
    assert loaded.decode(codec.prompt(text), skip_special_tokens=True) == text


def test_without_the_order_of_learning_ids_differ():
    """The planted fault: merges from the last learned to the first."""
    codec = learned("bpe")
    made = json.loads(tokenizer_to_hf(codec, 100)["tokenizer.json"])
    made["model"]["merges"].reverse()
    other = tokenizers.Tokenizer.from_str(json.dumps(made))
    assert other.encode(TEXT[:2000]).ids != codec.encode_prompt(TEXT[:2000])


def test_a_piece_is_merged_from_every_two_that_make_it():
    assert bpe_merges({"a": 0, "b": 1, "ab": 2, "abb": 3, "bb": 4}, ["ab", "bb", "abb", "a"]) == [
        ("a", "b"),
        ("b", "b"),
        ("a", "bb"),
        ("ab", "b"),
    ]


def test_a_codec_of_characters_gets_the_same_ids():
    codec = characters.train_character_tokenizer([Record.from_content("12 AB▁é".encode(), "text/plain", "test")], add_eos=False)
    assert theirs(codec).encode("BA é▁21").ids == codec.encode_prompt("BA é▁21")
    assert theirs(codec).decode(codec.encode_prompt("BA é▁21")) == "BA é▁21"


def test_a_codec_of_something_else_is_refused():
    class Grid:
        pass

    with pytest.raises(ProvenlmError, match="a Grid has no counterpart"):
        tokenizer_to_hf(Grid(), 100)
