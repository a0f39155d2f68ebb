"""Test `provenlm continue-training`: its steps are those of the recipe's own training."""

import re
from pathlib import Path

import pytest
from in_process import run_stage
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from provenlm.core.progress import PROGRESS_PREFIX
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.tokenizers import characters

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS_DIR = Path("models/ladder_memorise/checkpoints")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Train the smallest recipe for 30 steps with a checkpoint every 10 steps."""
    root = tmp_path_factory.mktemp("ladder")
    table = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    recipe = table["recipes"]["ladder_memorise"]
    recipe["train"] |= {
        "max_steps": 30,
        "checkpoints": {"save_interval": 10, "keep_latest_k": 2, "keep_every_n_steps": 10, "keep_best": False},
    }
    corpus = table["corpora"]["twelve_strings"]
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"corpora": {"twelve_strings": corpus}, "recipes": {"ladder_memorise": recipe}, "reports": {}}, file)
    records = [Record.from_content(text.encode(), "text/plain", "test") for text in corpus["scrape"]["strings"]]
    tokenizer = characters.train_character_tokenizer(records, add_eos=False)
    tokens = root / "data" / "twelve_strings" / "tokens"
    tokenizer.save(tokens / "tokenizer")
    ids = tokenizer.encode(records)
    documents = [token_dataset.TokenizedDocument(r.id, r.id, len(r.content), i) for r, i in zip(records, ids, strict=True)]
    token_dataset.write_token_dataset(tokens, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.0)
    result = run_stage(root, "train", "ladder_memorise")
    assert result.returncode == 0, result.stdout + result.stderr
    return root


@pytest.fixture
def run_steps(root, monkeypatch, run_cli):
    """Run the command from step 10 or another checkpoint; return its exit status, output and errors."""

    def run(*words: str, checkpoint: Path = CHECKPOINTS_DIR / "step-00000010") -> tuple[int, str, str]:
        monkeypatch.chdir(root)
        return run_cli("continue-training", "ladder_memorise", "--checkpoint", str(checkpoint), *words)

    return run


def test_continued_steps_reproduce_the_next_checkpoint_bit_for_bit(root, run_steps, tmp_path):
    run_steps("--steps", "10", "--output", str(tmp_path / "out"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        continued, original = load_file(tmp_path / "out" / name), load_file(root / CHECKPOINTS_DIR / "step-00000020" / name)
        assert continued.keys() == original.keys() and all((continued[key] == original[key]).all() for key in original)


def test_training_continues_from_its_own_output(root, run_steps, tmp_path):
    run_steps("--steps", "4", "--output", str(tmp_path / "four"))
    run_steps("--steps", "6", "--output", str(tmp_path / "ten"), checkpoint=tmp_path / "four")
    continued, original = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "ten", root / CHECKPOINTS_DIR / "step-00000020")
    )
    assert all((continued[key] == original[key]).all() for key in original)


def test_the_loss_falls_and_completions_are_printed_before_and_after(run_steps):
    lines = run_steps("--steps", "20", "--prompt", "FG", "--max-new-tokens", "3")[1].splitlines()
    output = [line for line in lines if not line.startswith(PROGRESS_PREFIX)]
    first, final = (float(word) for word in output[1].split(": ")[1].removesuffix(" nats/token").split(" and "))
    assert final < first
    assert [line.split(":")[0] for line in output[-2:]] == ["  step 10", "  step 30"]
    assert output[-1] == "  step 30: 'HIJ'"


@pytest.mark.parametrize("count", ["0", "21"])
def test_more_steps_than_remain_are_an_error(run_steps, count):
    message = f"provenlm continue-training: --steps: must be 1 to 20, because the training has 30 steps, got {count}\n"
    status, _, errors = run_steps("--steps", count)
    assert (status, errors) == (1, message)


def test_an_existing_folder_is_not_overwritten(run_steps, tmp_path):
    status, _, errors = run_steps("--output", str(tmp_path))
    assert status == 1 and "--output: must be a folder that does not exist" in errors


def test_another_config_is_an_error(root, run_steps):
    text = (root / "params.yaml").read_text()
    changed = text.replace("max_steps: 30", "max_steps: 30\n      label_smoothing: 0.1")
    assert changed != text and "label_smoothing: 0.1" in changed
    (root / "params.yaml").write_text(changed)
    status, _, errors = run_steps("--steps", "5")
    digest = "[0-9a-f]{64}"
    message = (
        f"provenlm continue-training: checkpoint: config must be {digest} as in this run, got {digest}; delete it to start over\n"
    )
    assert status == 1 and re.fullmatch(message, errors)
    (root / "params.yaml").write_text(text)
