import inspect
import textwrap

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.domains.text.tokenize.spec import SPEC, TextTokenizeConfig

SECTION = {"vocab_size": 600, "sample_bytes": 100_000, "character_coverage": 0.9995, "val_fraction": 0.1}


def test_the_spec_trains_saves_and_loads_a_tokenizer(tmp_path):
    record = Record.from_content(inspect.getsource(textwrap).encode(), "text/x-python", "textwrap")
    tokenizer = SPEC.train(config.parse_config(TextTokenizeConfig, SECTION, "x"), lambda: [record])
    tokenizer.save(tmp_path)
    loaded = SPEC.load(tmp_path)
    assert loaded.vocab_size == 600
    assert loaded.decode(tokenizer.encode([record])[0].tolist()) == record.content


def test_the_validation_fraction_is_that_of_the_config():
    assert SPEC.val_fraction(config.parse_config(TextTokenizeConfig, SECTION, "x")) == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 300}, r"vocab_size must be >= 512 \(256 are single bytes\), got 300"),
        ({"sample_bytes": 0}, "sample_bytes must be >= 1, got 0"),
        ({"character_coverage": 0.5}, "character_coverage must be from 0.9 to 1, got 0.5"),
        ({"val_fraction": 1}, "val_fraction must be >= 0 and < 1, got 1.0"),
        ({"vocab": 4096}, "unknown key 'vocab'"),
    ],
)
def test_invalid_values_are_refused(changes, message):
    with pytest.raises(ProvenlmError, match=message):
        config.parse_config(TextTokenizeConfig, SECTION | changes, "x")
