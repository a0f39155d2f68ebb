"""Test `provenlm generate` and `provenlm export` on models without training."""

import argparse
import inspect
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from provenlm.cli import generate, load_model, main
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record
from provenlm.models.generation.sampling import GREEDY
from provenlm.models.generation.sampling import generate as generate_ids
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.spec import SPEC as MOE
from provenlm.tokenizers import characters, sentencepiece_model
from provenlm.training.checkpoints import checkpoint

TEXT = inspect.getsource(argparse)
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "norm_eps": 1e-5,
    "dropout": 0.0,
}
GPT2 = {
    **SHAPE,
    "variant": "gpt2",
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
    "rope_theta": None,
}
LLAMA = {
    **SHAPE,
    "variant": "llama",
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
    "rope_theta": 10_000.0,
}
MIXTURE = {
    **SHAPE,
    **{
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "tie_word_embeddings": True,
        "rope_theta": 10_000.0,
    },
    **{"load_balancing": "global_aux_loss", "load_balancing_weight": 0.01, "z_loss_weight": 0.0},
}
MODELS = {"llama": ("gpt", GPT, LLAMA), "gpt2": ("gpt", GPT, GPT2), "moe": ("moe", MOE, MIXTURE)}
UNUSUAL_TEXTS = [
    "",
    " ",
    "  def f_1(self):\n\n\n\t\treturn",
    "a ▁ b",
    "<s>text</s><pad><unk><0x0A>",
    "漢字 é \x00 \u2028",
    "f_12345 " * 30,
]


@pytest.fixture(scope="module")
def tokenizers():
    records = [Record.from_content(TEXT.encode(), "text/plain", "test")]
    return {
        "text": sentencepiece_model.train_sentencepiece_tokenizer(lambda: records, 700, 0.9995, 10**7),
        "strings": characters.train_character_tokenizer([Record.from_content(b"ABCDE12345", "text/plain", "test")], add_eos=False),
    }


def make(root: Path, tokenizer, name: str, domain: str, step: int | None) -> ProjectPaths:
    """Write the tokenizer and a random model below `root`; with `step` the checkpoint of an unfinished training."""
    torch.set_num_threads(1)
    paths = ProjectPaths(root)
    kind, spec, raw = MODELS[name]
    row = {"corpus": "c", "domain": domain, "base_model": "none", "model": {"arch": kind, **raw}, "train": {}, "validate": {}}
    corpus = {"domain": domain, "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    paths.params_yaml.write_text(json.dumps({"corpora": {"c": corpus}, "recipes": {"r": row}, "reports": {}}))
    tokenizer.save(paths.corpus_dir("c", "tokens") / "tokenizer")
    torch.manual_seed(1)
    model = spec.build(spec.config_type(**raw), tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.25)
    model_metadata = checkpoint.ModelMetadata(kind, raw, tokenizer.vocab_size, 40)
    folder = paths.model_dir("r") if step is None else paths.resume_dir("r") / "key" / f"step-{step:08}"
    checkpoint.save_checkpoint(
        folder, checkpoint.Checkpoint({"model": model.state_dict()}, {}), {"model.json": model_metadata.to_json()}
    )
    return paths


@pytest.fixture
def project(tmp_path, tokenizers, monkeypatch):
    def create(name: str, domain: str = "text", step: int | None = None) -> ProjectPaths:
        monkeypatch.chdir(tmp_path)
        return make(tmp_path, tokenizers[domain], name, domain, step)

    return create


LOAD_SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
loaded = {}
for folder, texts in json.loads(sys.argv[1]).items():
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [tokenizer(text).input_ids for text in texts]
    with torch.no_grad():
        logits = [model(torch.tensor([row[:48]])).logits[0].tolist() for row in ids]
    generated = model.generate(torch.tensor([ids[-1][:10]]), max_new_tokens=20, do_sample=False)[0, 10:].tolist()
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    loaded[folder] = {"ids": ids, "logits": logits, "generated": generated, "decoded": decoded}
assert not [name for name in sys.modules if name.split(".")[0] in ("provenlm", "stages")]
json.dump(loaded, open("loaded.json", "w"))
"""
EXPORTS = {
    **{(name, "text"): [*UNUSUAL_TEXTS, TEXT[:400], TEXT[-300:]] for name in MODELS},
    ("gpt2", "strings"): ["A1B2C", "E" * 12],
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory, tokenizers):
    """Export models; load them in a process without this package and without a network."""
    home, ours, texts = tmp_path_factory.mktemp("exports"), {}, {}
    for (name, domain), request in EXPORTS.items():
        root = tmp_path_factory.mktemp("project")
        make(root, tokenizers[domain], name, domain, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            assert main.main(["export", "r", str(home / f"{name}-{domain}")]) == 0
            ours[name, domain] = load_model.load_recipe_model(ProjectPaths(root), "r", None)
        texts[f"{name}-{domain}"] = request
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", LOAD_SCRIPT, json.dumps(texts)]
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    theirs = json.loads((home / "loaded.json").read_text())
    return {key: (ours[key], theirs["-".join(key)]) for key in EXPORTS}


EACH_EXPORT = pytest.mark.parametrize("key", list(EXPORTS), ids="-".join)


@EACH_EXPORT
def test_the_exported_tokenizer_gives_equal_ids_and_round_trips(exports, key):
    ours, theirs = exports[key]
    assert theirs["ids"] == [ours.tokenizer.encode_prompt(text) for text in EXPORTS[key]]
    assert theirs["decoded"] == EXPORTS[key]


@EACH_EXPORT
def test_the_exported_model_gives_equal_logits(exports, key):
    ours, theirs = exports[key]
    for ids, logits in zip(theirs["ids"], theirs["logits"], strict=True):
        expected = ours.model.spec.logits(ours.model.model, torch.tensor([ids[:48]]))[0]
        torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-4, rtol=1e-4)


@EACH_EXPORT
def test_the_exported_model_generates_the_same_ids(exports, key):
    ours, theirs = exports[key]
    stop = ours.tokenizer.special_tokens.get("eos")
    assert generate_ids(generate.recipe_logits(ours), [theirs["ids"][-1][:10]], GREEDY, 20, stop, torch.Generator()) == [
        theirs["generated"]
    ]


def test_an_export_does_not_overwrite_a_folder(project, run_cli, tmp_path):
    project("llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert run_cli("export", "r", "out") == (1, "", "provenlm export: out: must not exist yet\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_equal_seeds_give_equal_text_and_other_seeds_other_text(project, run_cli):
    project("moe")
    texts = [run_cli("generate", "r", "--prompt", "def f", "--max-new-tokens", "30", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("def f")


def test_several_prompts_give_the_text_of_each_alone(project, run_cli):
    project("llama")
    options = ("--max-new-tokens", "12", "--temperature", "0")
    single_outputs = [run_cli("generate", "r", "--prompt", prompt, *options)[1] for prompt in ("def", "return 12")]
    _, output, _ = run_cli("generate", "r", "--prompt", "def", "--prompt", "return 12", *options)
    assert output == f"--- 1\n{single_outputs[0]}--- 2\n{single_outputs[1]}"


def test_text_is_written_to_a_file_and_read_as_a_prompt(project, run_cli):
    paths = project("llama")
    (paths.root / "prompt.txt").write_text("def f")
    words = ("generate", "r", "--max-new-tokens", "12", "--temperature", "0")
    _, printed, _ = run_cli(*words, "--prompt", "def f")
    assert run_cli(*words, "--prompt-file", "prompt.txt")[1] == printed
    assert run_cli(*words, "--prompt-file", "prompt.txt", "--output", "out.txt")[:2] == (0, "")
    assert (paths.root / "out.txt").read_bytes().decode("utf-8", "replace") + "\n" == printed


def test_a_character_of_several_tokens_is_printed_when_complete(project):
    recipe_model = load_model.load_recipe_model(project("llama"), "r", None)
    ids = recipe_model.tokenizer.encode_prompt("漢")
    assert len(ids) == 4  # bos and three bytes
    assert list(generate.decode_stream(recipe_model, iter(ids))) == ["", "", "", "漢", ""]


def test_an_unfinished_training_is_sampled_from_its_newest_intact_checkpoint(project, run_cli):
    project("gpt2", step=100)
    paths = project("gpt2", step=200)
    damaged = paths.resume_dir("r") / "key" / "step-00000300"
    damaged.mkdir()
    assert "step-00000200, seed 0" in run_cli("generate", "r", "--prompt", "x", "--max-new-tokens", "2")[2]


def test_a_checkpoint_can_be_named(project, run_cli):
    checkpoint_dir = project("gpt2", step=100).resume_dir("r") / "key" / "step-00000100"
    words = ("generate", "r", "--prompt", "x", "--max-new-tokens", "2", "--checkpoint", str(checkpoint_dir))
    assert "step-00000100" in run_cli(*words)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["r", "--temperature", "0", "--top-k", "5"], "--temperature: must be > 0 with --top-k or --top-p, got 0"),
        (["r", "--temperature", "-1"], "temperature: must be "),
        (["r", "--repetition-penalty", "0"], "repetition_penalty: must be "),
        (["r", "--max-new-tokens", "0"], "--max-new-tokens: must be at least 1, got 0"),
        (["q"], "recipes: no 'q'; known: r"),
        (["r", "--checkpoint", "nowhere"], "nowhere: does not exist"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(project, run_cli, words, message):
    project("llama")
    status, output, errors = run_cli("generate", *words, "--prompt", "x")
    assert (status, output) == (1, "")
    assert message in errors and errors.count("\n") == 1


def test_a_missing_model_or_tokenizer_is_named_with_its_command(project, run_cli):
    paths = project("llama")
    paths.model_dir("r").rename(paths.root / "elsewhere")
    assert "models/r: does not exist; run `dvc repro train@r`" in run_cli("generate", "r", "--prompt", "x")[2]
    (paths.root / "elsewhere").rename(paths.model_dir("r"))
    (paths.corpus_dir("c", "tokens")).rename(paths.root / "moved")
    assert "tokens/tokenizer: does not exist; `dvc repro tokenize@c`" in run_cli("generate", "r", "--prompt", "x")[2]


def test_a_prompt_with_an_unknown_character_is_an_error(project, run_cli):
    project("gpt2", "strings")
    for prompt, message in (("é", "'é'"), ("", "--prompt: must not be empty")):
        status, _, errors = run_cli("generate", "r", "--prompt", prompt)
        assert status == 1 and message in errors


TASK = """
task: own_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {text}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


@pytest.mark.slow  # imports lm_eval with its many dependencies
@pytest.mark.parametrize("name", list(MODELS))
def test_lm_evaluation_harness_measures_the_same_loss_offline(project, run_cli, name):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: it comes with the extra `eval`")
    paths, text = project(name), "def parse(self, arguments):\n    return arguments"
    folder, task = paths.root / "exported", paths.root / "tasks"
    run_cli("export", "r", str(folder))
    task.mkdir()
    (task / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (task / "own_text.yaml").write_text(TASK.format(text=task / "text.jsonl"))
    command = (
        f"{sys.executable} -m lm_eval --model hf --model_args pretrained={folder},add_bos_token=False --device cpu --batch_size 1"
    )
    command += f" --tasks own_text --include_path {task} --output_path {paths.root / 'results'}"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(paths.root / "hub")}
    result = subprocess.run(shlex.split(command), env=offline, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    (harness_metrics,) = (paths.root / "results").rglob("results_*.json")
    recipe_model = load_model.load_recipe_model(paths, "r", None)
    ids = torch.tensor([recipe_model.tokenizer.encode_prompt(text)])
    with torch.no_grad():
        logits = recipe_model.model.spec.logits(recipe_model.model.model.eval(), ids)[0, :-1]
    bits = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item() / math.log(2)
    assert json.loads(harness_metrics.read_text())["results"]["own_text"]["bits_per_byte,none"] == pytest.approx(
        bits / len(text.encode()), rel=1e-4
    )
