"""Test the validate stage on a net that has learned nothing."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from in_process import run_stage
from ruamel.yaml import YAML

from provenlm.core import audit as audits
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.models.moe.spec import SPEC
from provenlm.tokenizers import characters
from provenlm.training.build_model import init_model
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints import checkpoint

STRINGS = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY", "12345", "67890", "AAAAA", "BBBBB", "CCCCC", "A1B2C", "X9Y8Z"]
NET = """
hidden_size: 16
num_hidden_layers: 1
num_attention_heads: 2
num_key_value_heads: 1
num_experts: 4
num_experts_per_tok: 2
intermediate_size: 16
max_position_embeddings: 8
tie_word_embeddings: true
rope_theta: 10000.0
norm_eps: 1e-5
dropout: 0.0
load_balancing: aux_loss
load_balancing_weight: 0.0
z_loss_weight: 0.0
"""
VALIDATE = """
threads: 1
small_model_overrides: {hidden_size: 8}
overfit_batch: {num_sequences: 12, seq_len: 4, steps: 30, lr: 0.02}
loss_eval: {tokens_per_batch: 256, num_train_tokens: 100}
causality: {num_positions: 3, num_tokens: 64}
generation:
  prompts: [AB]
  num_val_prompts: 2
  prompt_tokens: 2
  max_new_tokens: 6
  sampling_configs:
    greedy: {temperature: 0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0}
    warm: {temperature: 1.0, top_k: 5, top_p: 0.9, repetition_penalty: 1.3}
throughput: {seq_lens: [2, 4], num_iters: 5}
sweeps: {seeds: [6, 7], x_metric: train_completion.prefix_2.loss, y_metrics: [train_completion.prefix_2.num_correct]}
count_only_models: {}
probes: {prompt_chars: [1, 2], fixed_prompts: [], tokens_per_batch: 64}
"""


@pytest.fixture(scope="module")
def params():
    yaml = YAML(typ="safe", pure=True)
    net, validate = yaml.load(NET), yaml.load(VALIDATE)
    train = yaml.load(Path(__file__).resolve().parents[2] / "params.yaml")["recipes"]["ladder_memorise"]["train"]
    train |= {"seed": 5, "seq_len": 4, "eval": None, "sample": None}
    large = {
        **net,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_experts": 8,
        "intermediate_size": 2048,
        "max_position_embeddings": 2048,
    }
    validate["count_only_models"] = {"seed": {"vocab_size": 32_000, "model": large}}
    corpus = {"domain": "strings", "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    recipe = {
        "corpus": "toy",
        "domain": "strings",
        "base_model": "none",
        "model": {"arch": "moe", **net},
        "train": train,
        "validate": validate,
    }
    return {"corpora": {"toy": corpus}, "recipes": {"tiny": recipe}, "reports": {}}


def project(root: Path, params, length: int = 4) -> Path:
    """Write a project as tokenize and train leave it after no training step."""
    tokenizer = characters.train_character_tokenizer(
        (Record.from_content(s.encode(), "text/plain", "test") for s in STRINGS), add_eos=False
    )
    tokens = root / "data" / "toy" / "tokens"
    tokens.mkdir(parents=True)
    documents = [
        token_dataset.TokenizedDocument(s, s, len(s), tokenizer.encode([Record.from_content(s.encode(), "", "")])[0])
        for s in STRINGS
    ]
    token_dataset.write_token_dataset(tokens, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.0)
    tokenizer.save(tokens / "tokenizer")
    raw = {name: value for name, value in params["recipes"]["tiny"]["model"].items() if name != "arch"}
    model = init_model(SPEC, SPEC.config_type(**raw), tokenizer.vocab_size, 5)
    model_metadata = checkpoint.ModelMetadata("moe", raw, tokenizer.vocab_size, length)
    state = checkpoint.Checkpoint({"model": model.state_dict()}, {})
    checkpoint.save_checkpoint(
        root / "models" / "tiny", state, {"model.json": model_metadata.to_json(), "history.parquet": StepHistory().to_parquet()}
    )
    with (root / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    return root


def run(root: Path):
    return run_stage(root, "validate", "tiny")


@pytest.fixture(scope="module")
def done(tmp_path_factory, params):
    root = project(tmp_path_factory.mktemp("validated"), params)
    process = run(root)
    assert process.returncode == 0, process.stdout + process.stderr
    return root


@pytest.fixture(scope="module")
def audit(done):
    return audits.read_audit(done / "reports" / "audits" / "tiny" / "validate.json")


def test_every_applicable_probe_ran_and_none_failed(audit):
    assert audit.metrics["eval.failures"].value == 0, [n for n in audit.metrics if n.endswith(".error")]
    outcomes = {row[0]: row[1] for row in next(t for t in audit.tables if t.name == "probes").rows}
    assert len(outcomes) == audit.metrics["eval.num_probes"].value == 36
    assert {name for name, outcome in outcomes.items() if outcome == "not applicable"} == set(audit.not_applicable)


def test_without_validation_split_its_metrics_do_not_apply(audit):
    assert audit.not_applicable["val"] == "the validation split is empty"
    assert audit.not_applicable["parity.compile"] == "the recipe does not compile the blocks of the model (train.compile)"
    assert audit.not_applicable["fixed_prompts"] == "the recipe names no fixed_prompts (validate.probes)"
    assert not {"parity.hf", "parity.kv_cache", "parity.experts", "model", "attention"} & audit.not_applicable.keys()


def test_every_probe_brings_its_checks_into_the_audit(audit):
    assert audit.checks["causality.max_past_change"].expect == "< 1e-3"
    assert audit.checks["val.bits_per_byte"].expect == "< bigram.bits_per_byte"
    assert audit.checks["trained_check"].expect == "== 1"
    applicable = [name for name in audit.checks if name.rpartition(".")[0] not in audit.not_applicable]
    missing = [name for name in applicable if name not in audit.metrics and not name.startswith(tuple(audit.not_applicable))]
    assert missing == []


def test_models_of_other_seeds_are_trained_and_measured(audit):
    assert audit.metrics["seed_sweep.num_models"].value == 3
    assert [row[0] for row in next(t for t in audit.tables if t.name == "seed_sweep.seeds").rows] == [5, 6, 7]


def test_a_model_without_a_step_has_no_updates(audit):
    assert audit.metrics["updates.relative_update"].value == 0
    assert audit.metrics["improvement.loss_improvement"].value == 0


def test_a_model_without_a_step_fails_the_trained_check(audit):
    assert audit.metrics["trained_check"].value == 0
    assert "0 updates were applied" in audit.metrics["trained_check"].description


def test_a_resumed_training_ends_in_the_same_bits(audit):
    assert audit.metrics["resume.mismatches"].value == 0


def test_an_empty_validation_split_has_no_metrics(audit):
    assert [name for name in audit.metrics if name.startswith("val.")] == []
    assert audit.metrics["train.num_targets"].value == 48


def test_every_rate_with_a_ceiling_has_its_chance_level_and_an_interval(audit):
    rates = [n.removesuffix(".ceiling") for n, f in audit.metrics.items() if n.endswith(".ceiling") and f.unit == "fraction"]
    assert {"train.accuracy", "train_completion.prefix_1.accuracy", "attention.in_context.repeat_accuracy"} <= set(rates)
    for rate in rates:
        assert audit.metrics[f"{rate}.ci_low"].value <= audit.metrics[rate].value <= audit.metrics[f"{rate}.ci_high"].value, rate
        assert 0 < audit.metrics[f"{rate}.chance"].value <= audit.metrics[f"{rate}.ceiling"].value, rate


def test_count_only_models_are_counted(audit):
    assert audit.metrics["params.reference_models.seed.total"].value == 222_994_944


def test_samples_are_written_and_declared_as_outputs(done, audit):
    assert pq.read_table(done / "reports" / "samples" / "tiny" / "texts.parquet").num_rows == 2
    assert [path for path, _ in audit.provenance["outputs"]] == ["reports/samples/tiny"]
    assert [path for path, _ in audit.provenance["inputs"]] == ["data/toy/tokens", "models/tiny"]
    assert (audit.provenance["seed"], audit.provenance["threads"]) == (5, 1)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("validate", "probs"), {}, "recipes.tiny.validate: unknown key 'probs' (did you mean 'probes'?)"),
        (
            ("validate", "probes"),
            {"prompt_chars": []},
            "recipes.tiny.validate.probes: prompt_chars must be a non-empty list of numbers >= 1, got []",
        ),
        (
            ("validate", "count_only_models"),
            {"x": {"vocab_size": 9, "model": {"width": 1}}},
            "recipes.tiny.validate.count_only_models.x.model: unknown key 'width'",
        ),
    ],
)
def test_a_mistake_in_the_parameters_is_named_on_the_first_line(tmp_path, params, path, value, said):
    wrong = json.loads(json.dumps(params))
    wrong["recipes"]["tiny"][path[0]][path[1]] = value
    result = run(project(tmp_path, wrong))
    assert result.returncode == 1 and said in result.stderr.splitlines()[0]


def test_a_failing_probe_is_an_error_in_the_audit_and_others_run(tmp_path, params):
    wrong = json.loads(json.dumps(params))
    wrong["recipes"]["tiny"]["validate"] = {"threads": 1, "throughput": {"seq_lens": [8]}}  # every other setting has a default
    assert run(project(tmp_path, wrong)).returncode == 0
    audit = audits.read_audit(tmp_path / "reports" / "audits" / "tiny" / "validate.json")
    metrics, settings = audit.metrics, {(section, key): is_default for section, key, _, is_default in audit.config}
    assert settings["validate", "causality.num_tokens"] and not settings["validate", "throughput.seq_lens"]
    assert audit.not_applicable["seed_sweep"] == "the recipe names no seeds to train with (validate.sweeps)"
    assert metrics["throughput.error"].value.startswith("ValueError: throughput.seq_lens must be <= 4")
    assert metrics["eval.failures"].value == 1
    assert metrics["train_completion.strings"].value == 12


def test_a_model_of_another_vocab_size_is_refused(tmp_path, params):
    root = project(tmp_path, params)
    manifest = root / "data" / "toy" / "tokens" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"vocab_size": 37', '"vocab_size": 38'))
    result = run(root)
    assert result.returncode == 1 and "must have the vocab_size 38 of its corpus, got 37" in result.stderr
