"""Some steps more from a kept checkpoint: those that the training itself took, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from provenlm.cli import continue_training
from provenlm.core.progress import PROGRESS_PREFIX
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.tokenizers import characters

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS_DIR = Path("models/ladder_memorise/checkpoints")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The lowest rung of the ladder, trained for 30 steps with a checkpoint kept every 10."""
    root = tmp_path_factory.mktemp("ladder")
    table = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    recipe = table["recipes"]["ladder_memorise"]
    recipe["train"] |= {"steps": 30, "checkpoints": {"every": 10, "last": 2, "spaced": 10, "best": False}}
    corpus = table["corpora"]["twelve_strings"]
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"corpora": {"twelve_strings": corpus}, "recipes": {"ladder_memorise": recipe}, "reports": {}}, file)
    records = [Record.from_content(text.encode(), "text/plain", "test") for text in corpus["scrape"]["strings"]]
    codec = characters.train_character_tokenizer(records, add_eos=False)
    tokens = root / "data" / "twelve_strings" / "tokens"
    codec.save(tokens / "codec")
    ids = codec.encode(records)
    documents = [token_dataset.TokenizedDocument(r.id, r.id, len(r.content), i) for r, i in zip(records, ids, strict=True)]
    token_dataset.write_token_dataset(tokens, documents, codec.vocab_size, codec.special_tokens, 0.0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.train", "ladder_memorise"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def ask(root, monkeypatch, capsys):
    """Run the command; what it printed."""

    def asked(*words: str) -> str:
        monkeypatch.chdir(root)
        monkeypatch.setattr(
            sys, "argv", ["further", "ladder_memorise", "--checkpoint", str(CHECKPOINTS_DIR / "step-00000010"), *words]
        )
        continue_training.main()
        return capsys.readouterr().out

    return asked


def test_ten_steps_from_a_kept_checkpoint_end_in_the_bits_of_the_next_one(root, ask, tmp_path):
    ask("--steps", "10", "--to", str(tmp_path / "made"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        continued, checkpoints = load_file(tmp_path / "made" / name), load_file(root / CHECKPOINTS_DIR / "step-00000020" / name)
        assert continued.keys() == checkpoints.keys() and all((continued[key] == checkpoints[key]).all() for key in checkpoints)


def test_it_goes_on_from_what_it_left(root, ask, tmp_path, monkeypatch):
    ask("--steps", "4", "--to", str(tmp_path / "four"))
    monkeypatch.setattr(sys, "argv", ["further", "ladder_memorise", "--checkpoint", str(tmp_path / "four"), "--steps", "6"])
    sys.argv += ["--to", str(tmp_path / "ten")]
    continue_training.main()
    first_output, checkpoint = (
        load_file(f / "model.safetensors") for f in (tmp_path / "ten", root / CHECKPOINTS_DIR / "step-00000020")
    )
    assert all((first_output[key] == checkpoint[key]).all() for key in checkpoint)


def test_the_loss_falls_and_completions_are_shown_before_and_after(ask):
    lines = ask("--steps", "20", "--prompt", "FG", "--tokens", "3").splitlines()
    output = [line for line in lines if not line.startswith(PROGRESS_PREFIX)]
    first, final = (float(word) for word in output[1].split(": ")[1].removesuffix(" nats/token").split(" and "))
    assert final < first
    assert [line.split(":")[0] for line in output[-2:]] == ["  step 10", "  step 30"]
    assert output[-1] == "  step 30: 'HIJ'"


@pytest.mark.parametrize("count", ["0", "21"])
def test_more_steps_than_the_training_has_left_are_refused(ask, count):
    with pytest.raises(SystemExit, match=rf"--steps {count}: from 1 to 20 would be right: the training ends after 30"):
        ask("--steps", count)


def test_a_folder_that_is_there_is_not_written_over(ask, tmp_path):
    with pytest.raises(SystemExit, match="is there already"):
        ask("--to", str(tmp_path))


def test_other_settings_are_refused(root, ask):
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("clip: 1.0", "clip: 2.0"))
    with pytest.raises(SystemExit, match="the checkpoint was made with settings"):
        ask("--steps", "5")
    (root / "params.yaml").write_text(text)
