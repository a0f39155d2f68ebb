import inspect
import textwrap

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record
from provenlm.domains.text.tokenize.spec import SPEC, TextTokenizeConfig

SECTION = {"vocabulary": 600, "sample_bytes": 100_000, "character_coverage": 0.9995, "held_out": 0.1}


def test_the_face_learns_saves_and_loads_a_codec_of_the_size_asked_for(tmp_path):
    record = Record.from_content(inspect.getsource(textwrap).encode(), "text/x-python", "textwrap")
    tokenizer = SPEC.train(config.parse_config(TextTokenizeConfig, SECTION, "x"), lambda: [record])
    tokenizer.save(tmp_path)
    loaded = SPEC.load(tmp_path)
    assert loaded.vocab_size == 600
    assert loaded.decode(tokenizer.encode([record])[0].tolist()) == record.content


def test_the_share_held_out_is_the_one_in_the_settings():
    assert SPEC.val_fraction(config.parse_config(TextTokenizeConfig, SECTION, "x")) == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 300}, r"vocabulary: at least 512 \(256 are single bytes\), got 300"),
        ({"sample_bytes": 0}, "sample_bytes: at least 1, got 0"),
        ({"character_coverage": 0.5}, "character_coverage: a share from 0.9 to 1, got 0.5"),
        ({"held_out": 1}, "held_out: a share from 0 to below 1, got 1.0"),
        ({"vocab": 4096}, "unknown key 'vocab'"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ProvenlmError, match=message):
        config.parse_config(TextTokenizeConfig, SECTION | changes, "x")
