"""Test `provenlm compare`: equal models, a damaged model, and checkouts without common held-out records."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import run_command
from safetensors.torch import load_file, save_file
from test_validate_stage import STRINGS, params, project  # noqa: F401  params is a fixture

from provenlm.cli.compare import compare_models
from provenlm.core import hashing
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.tokenizers import characters
from provenlm.training.checkpoints.checkpoint import load_model


def hold_out(root: Path, strings: list[str]) -> Path:
    """Write the tokens of all `STRINGS` below `root`, with `strings` in the validation split."""
    tokenizer = characters.load_character_tokenizer(root / "data/toy/tokens/tokenizer")
    side = {
        name: next(
            f"{name}{n}" for n in range(1000) if (token_dataset.assign_split(f"{name}{n}", 0.5) == "val") == (name in strings)
        )
        for name in STRINGS
    }
    documents = [
        token_dataset.TokenizedDocument(s, side[s], len(s), tokenizer.encode([Record.from_content(s.encode(), "", "")])[0])
        for s in STRINGS
    ]
    token_dataset.write_token_dataset(root / "data/toy/tokens", documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.5)
    return root


@pytest.fixture
def pair(tmp_path, params):  # noqa: F811
    return [hold_out(project(tmp_path / name, params), STRINGS[:3]) for name in ("here", "there")]


def damage(root: Path) -> None:
    """Replace the weights by random ones of the same shapes and update the manifest."""
    file, manifest = root / "models/tiny/model.safetensors", root / "models/tiny/manifest.json"
    old_digest = hashing.sha256_file(file)
    torch.manual_seed(1)
    save_file({name: torch.randn_like(value) for name, value in load_file(file).items()}, file)
    manifest.write_text(manifest.read_text().replace(old_digest, hashing.sha256_file(file)))


def test_a_model_has_no_difference_to_itself(pair):
    comparison = compare_models("tiny", *pair)
    assert comparison["records"] == 3 and comparison["bytes"] == 15
    assert comparison["difference"] == comparison["ci_low"] == comparison["ci_high"] == 0
    assert comparison["bits_per_byte"] == comparison["other_bits_per_byte"] > 0


@torch.inference_mode()
def test_bits_per_byte_follow_from_the_models_logits(pair):
    loaded = load_model(pair[0] / "models/tiny")
    bits = 0.0
    for string in STRINGS[:3]:
        split = token_dataset.load_token_dataset(pair[0] / "data/toy/tokens").val
        index = split.record_ids.index(string)
        ids = torch.from_numpy(np.asarray(split.ids[split.doc_offsets[index] : split.doc_offsets[index + 1]]).astype(np.int64))
        for start in range(0, len(ids) - 1, 4):  # windows of 4, as the checkpoint says
            row = ids[start : start + 5]
            logs = torch.log_softmax(loaded.spec.logits(loaded.model, row[None, :-1])[0].double(), -1)
            bits -= float(logs.gather(1, row[1:, None]).sum()) / math.log(2)
    assert compare_models("tiny", *pair)["bits_per_byte"] == pytest.approx(bits / 15, rel=1e-5)


def test_a_model_with_random_weights_is_worse(pair):
    damage(pair[0])
    comparison = compare_models("tiny", *pair)
    assert (
        comparison["difference"] == pytest.approx(comparison["bits_per_byte"] - comparison["other_bits_per_byte"])
        and comparison["difference"] > 0.1
    )


def test_records_held_out_by_one_model_only_are_ignored(pair):
    hold_out(pair[1], STRINGS[2:5])
    assert compare_models("tiny", *pair)["records"] == 1
    hold_out(pair[1], STRINGS[3:5])
    assert compare_models("tiny", *pair) == {"records": 0}


def test_the_command_prints_one_json_line_or_a_one_line_error(pair):
    def run_compare(*words):
        return run_command(pair[0], "compare", *words)

    assert json.loads(run_compare("tiny", str(pair[1])).stdout.splitlines()[-1])["difference"] == 0
    missing = run_compare("tiny", str(pair[1].parent / "nowhere"))
    assert missing.returncode == 1 and missing.stderr.startswith("provenlm compare: ") and missing.stderr.count("\n") == 1
