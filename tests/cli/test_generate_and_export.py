"""A trained net put to use from the command line: what it writes, and what others can load of it."""

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

from provenlm.cli import export, generate, load_model
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record
from provenlm.models.generation.sampling import GREEDY
from provenlm.models.generation.sampling import generate as generated
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.spec import SPEC as MOE
from provenlm.tokenizers import characters, sentencepiece_model
from provenlm.training.checkpoints import checkpoint

TEXT = inspect.getsource(argparse)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 48, "norm_eps": 1e-5, "dropout": 0.0}
GPT2 = {**SHAPE, "variant": "gpt2", "num_key_value_heads": 4, "intermediate_size": 128, "tie_word_embeddings": False, "rope_theta": None}
LLAMA = {**SHAPE, "variant": "llama", "num_key_value_heads": 2, "intermediate_size": 48, "tie_word_embeddings": True, "rope_theta": 10_000.0}
MIXTURE = {
    **SHAPE,
    **{"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24, "tie_word_embeddings": True, "rope_theta": 10_000.0},
    **{"load_balancing": "global_aux_loss", "load_balancing_weight": 0.01, "z_loss_weight": 0.0},
}
NETS = {"llama": ("gpt", GPT, LLAMA), "gpt2": ("gpt", GPT, GPT2), "moe": ("moe", MOE, MIXTURE)}
STRANGE = [
    "",
    " ",
    "  def f_1(self):\n\n\n\t\treturn",
    "a ▁ b",
    "<s>text</s><pad><unk><0x0A>",
    "漢字 é \x00 \u2028",
    "f_12345 " * 30,
]


@pytest.fixture(scope="module")
def codecs():
    records = [Record.from_content(TEXT.encode(), "text/plain", "test")]
    return {
        "text": sentencepiece_model.train_sentencepiece_tokenizer(lambda: records, 700, 0.9995, 10**7),
        "strings": characters.train_character_tokenizer([Record.from_content(b"ABCDE12345", "text/plain", "test")], add_eos=False),
    }


def make(root: Path, tokenizer, net: str, domain: str, step: int | None) -> ProjectPaths:
    """What tokenize and train leave below `root`: the codec and a net without a zero; with `step` an unfinished training."""
    torch.set_num_threads(1)
    layout = ProjectPaths(root)
    kind, spec, raw = NETS[net]
    row = {"corpus": "c", "domain": domain, "model": {"arch": kind, **raw}, "train": {}, "validate": {}}
    corpus = {"domain": domain, "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    layout.params_yaml.write_text(json.dumps({"corpora": {"c": corpus}, "recipes": {"r": row}, "reports": {}}))
    tokenizer.save(layout.corpus_dir("c", "tokens") / "tokenizer")
    torch.manual_seed(1)
    model = spec.build(spec.config_type(**raw), tokenizer.vocabulary)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.25)
    model_metadata = checkpoint.ModelMetadata(kind, raw, tokenizer.vocabulary, 40)
    folder = layout.model_dir("r") if step is None else layout.resume_dir("r") / "key" / f"step-{step:08}"
    checkpoint.save_checkpoint(
        folder, checkpoint.Checkpoint({"model": model.state_dict()}, {}), {"net.json": model_metadata.to_json()}
    )
    return layout


@pytest.fixture
def project(tmp_path, codecs, monkeypatch):
    def made(net: str, domain: str = "text", step: int | None = None) -> ProjectPaths:
        monkeypatch.chdir(tmp_path)
        return make(tmp_path, codecs[domain], net, domain, step)

    return made


def run(monkeypatch, module, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()


LOADED = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {}
for folder, texts in json.loads(sys.argv[1]).items():
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [tokenizer(text).input_ids for text in texts]
    with torch.no_grad():
        logits = [model(torch.tensor([row[:48]])).logits[0].tolist() for row in ids]
    written = model.generate(torch.tensor([ids[-1][:10]]), max_new_tokens=20, do_sample=False)[0, 10:].tolist()
    back = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    found[folder] = {"ids": ids, "logits": logits, "written": written, "back": back}
assert not [name for name in sys.modules if name.split(".")[0] in ("provenlm", "stages")]
json.dump(found, open("loaded.json", "w"))
"""
EXPORTS = {
    **{(net, "text"): [*STRANGE, TEXT[:400], TEXT[-300:]] for net in NETS},
    ("gpt2", "strings"): ["A1B2C", "E" * 12],
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory, codecs):
    """Our nets, and what a process that has no code of ours and no network makes of their exported folders."""
    home, ours, texts = tmp_path_factory.mktemp("exports"), {}, {}
    for (net, domain), request in EXPORTS.items():
        root = tmp_path_factory.mktemp("project")
        make(root, codecs[domain], net, domain, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            run(patch, export, "r", str(home / f"{net}-{domain}"))
            ours[net, domain] = load_model.load_recipe_model(ProjectPaths(root), "r", None)
        texts[f"{net}-{domain}"] = request
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", LOADED, json.dumps(texts)]
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    theirs = json.loads((home / "loaded.json").read_text())
    return {key: (ours[key], theirs["-".join(key)]) for key in EXPORTS}


NUM_PROMPTS = pytest.mark.parametrize("key", list(EXPORTS), ids="-".join)


@NUM_PROMPTS
def test_the_exported_tokenizer_gives_the_same_ids_and_every_text_back(exports, key):
    ours, theirs = exports[key]
    assert theirs["ids"] == [ours.codec.prompt(text) for text in EXPORTS[key]]
    assert theirs["back"] == EXPORTS[key]


@NUM_PROMPTS
def test_the_exported_net_gives_the_same_logits(exports, key):
    ours, theirs = exports[key]
    for ids, logits in zip(theirs["ids"], theirs["logits"], strict=True):
        expected = ours.net.net.logits(ours.net.model, torch.tensor([ids[:48]]))[0]
        torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-4, rtol=1e-4)


@NUM_PROMPTS
def test_the_exported_net_writes_what_ours_does(exports, key):
    ours, theirs = exports[key]
    stop = ours.codec.special.get("eos")
    assert generated(generate.recipe_logits(ours), [theirs["ids"][-1][:10]], GREEDY, 20, stop, torch.Generator()) == [
        theirs["written"]
    ]


def test_an_export_does_not_write_over_what_is_there(project, monkeypatch, tmp_path):
    project("llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(SystemExit, match="export r: out: is there already"):
        run(monkeypatch, export, "r", "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_same_seed_writes_the_same_text_and_another_does_not(project, monkeypatch, capsys):
    project("moe")
    texts = []
    for seed in ("1", "1", "2"):
        run(monkeypatch, generate, "r", "--prompt", "def f", "--tokens", "30", "--seed", seed)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("def f")


def test_several_prompts_are_continued_side_by_side(project, monkeypatch, capsys):
    project("llama")
    single_output = []
    for prompt in ("def", "return 12"):
        run(monkeypatch, generate, "r", "--prompt", prompt, "--tokens", "12", "--temperature", "0")
        single_output.append(capsys.readouterr().out)
    run(monkeypatch, generate, "r", "--prompt", "def", "--prompt", "return 12", "--tokens", "12", "--temperature", "0")
    assert capsys.readouterr().out == f"--- 1\n{single_output[0]}--- 2\n{single_output[1]}"


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(project):
    recipe_model = load_model.load_recipe_model(project("llama"), "r", None)
    ids = recipe_model.tokenizer.encode_prompt("漢")
    assert len(ids) == 4  # a beginning and three bytes
    assert list(generate.decode_stream(recipe_model, iter(ids))) == ["", "", "", "漢", ""]


def test_a_training_that_is_not_finished_is_sampled_from_its_newest_whole_checkpoint(project, monkeypatch, capsys):
    project("gpt2", step=100)
    layout = project("gpt2", step=200)
    damaged = layout.resume("r") / "key" / "step-00000300"
    damaged.mkdir()
    run(monkeypatch, generate, "r", "--prompt", "x", "--tokens", "2")
    assert "step-00000200, seed 0" in capsys.readouterr().err


def test_a_checkpoint_can_be_named(project, monkeypatch, capsys):
    layout = project("gpt2", step=100)
    run(
        monkeypatch,
        generate,
        "r",
        "--prompt",
        "x",
        "--tokens",
        "2",
        "--checkpoint",
        str(layout.resume("r") / "key" / "step-00000100"),
    )
    assert "step-00000100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["r", "--temperature", "0", "--top-k", "5"], "--temperature 0 takes the most probable token"),
        (["r", "--temperature", "-1"], "temperature and top_k must be at least 0"),
        (["r", "--repetition-penalty", "0"], "it must be above 0"),
        (["r", "--tokens", "0"], "--tokens 0: at least 1 would be right"),
        (["q"], "recipes: no 'q'; known: r"),
        (["r", "--checkpoint", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_in_the_words_of_the_command(project, monkeypatch, words, said):
    project("llama")
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, generate, *words, "--prompt", "x")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named_with_what_makes_it(project, monkeypatch):
    layout = project("llama")
    layout.model("r").rename(layout.root / "elsewhere")
    with pytest.raises(SystemExit, match="models/r: not there; `dvc repro train@r` trains it"):
        run(monkeypatch, generate, "r", "--prompt", "x")
    (layout.root / "elsewhere").rename(layout.model("r"))
    (layout.corpus("c", "tokens")).rename(layout.root / "gone")
    with pytest.raises(SystemExit, match="tokens/tokenizer: not there; `dvc repro tokenize@c`"):
        run(monkeypatch, generate, "r", "--prompt", "x")


def test_a_prompt_of_a_character_that_was_not_learned_is_refused(project, monkeypatch):
    project("gpt2", "strings")
    for prompt, message in (("é", "no id for the character 'é'"), ("", "needs at least one character")):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, generate, "r", "--prompt", prompt)


@pytest.mark.parametrize(("module", "name"), [(generate, "generate"), (export, "export")])
def test_help_shows_a_command_that_can_be_copied(module, name):
    help_text = " ".join(module.parser().format_help().split())
    example = help_text.split("example: python -m ")[1]
    assert example.startswith(f"stages.{name} docs_moe")
    assert module.parser().parse_args(shlex.split(example)[1:]).recipe == "docs_moe"


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


@pytest.mark.slow  # it imports half of the ecosystem
@pytest.mark.parametrize("net", list(NETS))
def test_lm_evaluation_harness_measures_an_exported_net_offline_as_we_do(project, monkeypatch, net):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: it comes with the extra `eval`")
    layout, text = project(net), "def parse(self, arguments):\n    return arguments"
    folder, task = layout.root / "exported", layout.root / "tasks"
    run(monkeypatch, export, "r", str(folder))
    task.mkdir()
    (task / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (task / "own_text.yaml").write_text(TASK.format(text=task / "text.jsonl"))
    command = (
        f"{sys.executable} -m lm_eval --model hf --model_args pretrained={folder},add_bos_token=False --device cpu --batch_size 1"
    )
    command += f" --tasks own_text --include_path {task} --output_path {layout.root / 'said'}"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(layout.root / "hub")}
    result = subprocess.run(shlex.split(command), env=offline, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    (harness_metrics,) = (layout.root / "said").rglob("results_*.json")
    recipe_model = load_model.load_recipe_model(layout, "r", None)
    ids = torch.tensor([recipe_model.tokenizer.encode_prompt(text)])
    with torch.no_grad():
        logits = recipe_model.model.spec.logits(recipe_model.model.model.eval(), ids)[0, :-1]
    bits = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item() / math.log(2)
    assert json.loads(harness_metrics.read_text())["results"]["own_text"]["bits_per_byte,none"] == pytest.approx(
        bits / len(text.encode()), rel=1e-4
    )
