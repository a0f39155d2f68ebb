"""Run the standard probes on a grid transformer: what needs a next token does not apply, everything else passes."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.core.interfaces import NoBatchConfig, TokenizeSpec
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.evaluation import assemble
from provenlm.evaluation.probe import available_needs
from provenlm.evaluation.runner import run_probes
from provenlm.evaluation.suite import ValidateConfig, find_conditions, scale_to_recipe, standard_probes
from provenlm.evaluation.sweep import ModelVariants
from provenlm.models.common.spec import capabilities
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.model import VOCAB_SIZE
from provenlm.models.grid_transformer.spec import SPEC
from provenlm.training.build_model import init_model
from provenlm.training.checkpoints.checkpoint import LoadedModel, ModelMetadata
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import LRScheduleConfig, TrainEvalConfig
from provenlm.training.trainer import Trainer
from tests.models.grid_cases import make_batch, random_grid

CONFIG = GridTransformerConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_tasks=3, max_cells=64
)
TRAIN = TrainConfig(
    max_steps=6,
    seq_len=32,
    global_batch_size=4,
    threads=1,
    lr_schedule=LRScheduleConfig(warmup_steps=1),
    spike_guard=None,
    eval=TrainEvalConfig(interval=3, num_sequences=4),
)
NEXT_TOKEN = "the model has no capability next_token_logits"


class PairSequences:
    """Give small pairs of grids, every third one not in place."""

    def __len__(self):
        return 12

    def get_batch(self, indices):
        pairs = [
            (random_grid(2, 3, n), random_grid(3, 2, n) if n % 3 == 0 else random_grid(2, 3, n + 50)) for n in indices.tolist()
        ]
        return make_batch(pairs, tasks=(indices % 3).tolist())


def split(first, count):
    documents = [np.random.default_rng(first + n).integers(0, 10, 12) for n in range(count)]
    offsets = np.arange(count + 1, dtype=np.int64) * 12
    names = [str(first + n) for n in range(count)]
    return DatasetSplit(np.concatenate(documents).astype(np.uint16), offsets, names, np.full(count, 12), names)


TOKENS = TokenDataset(split(0, 12), split(100, 4), VOCAB_SIZE, {"pad": 10}, {"Task": np.arange(3)})
DOMAIN = TokenizeSpec(Mapping, None, None, None, batch_config_type=NoBatchConfig, sequences=lambda *arguments: PairSequences())


@pytest.fixture(scope="module")
def steps():
    torch.set_num_threads(1)
    trainer = Trainer.create(SPEC, CONFIG, TOKENS, TRAIN, domain_batches=DOMAIN)
    return trainer, [(step, cpu_copy(step.snapshot())) for step in trainer.steps()]


@pytest.fixture(scope="module")
def recorder(steps):
    trainer, _ = steps
    build_small = lambda vocab_size: SPEC.build(CONFIG, vocab_size)  # noqa: E731
    case = assemble.make_training_case(SPEC, TOKENS, TRAIN, build_small, DOMAIN)
    loaded = LoadedModel(SPEC, CONFIG, trainer.model, ModelMetadata("grid_transformer", asdict(CONFIG), VOCAB_SIZE, 32))
    context = assemble.make_eval_context(loaded, TOKENS, None, case, build_small, 0, DOMAIN)
    config = scale_to_recipe(ValidateConfig(threads=1), asdict(CONFIG), 32)
    conditions = find_conditions(context, config, case, [], ModelVariants((0, 0.0), None, [], 6), False)
    result = MetricRecorder()
    probes = standard_probes(config, None, {}, [], case, [])
    del probes["gradcheck_ops"]  # of operations, not of this model
    run_probes(context, probes, result, available_needs(capabilities(SPEC), conditions, {}))
    return result


def test_no_standard_probe_fails(recorder):
    assert recorder.metrics["eval.failures"].value == 0, {n: m.value for n, m in recorder.metrics.items() if n.endswith(".error")}


def test_what_needs_a_next_token_does_not_apply(recorder):
    names = {"overfit_batch", "val", "train", "initialization", "improvement", "causality", "generation", "throughput", "attention"}
    assert {name for name in names if NEXT_TOKEN in recorder.not_applicable[name]} == names
    assert "the model has no capability kv_cache" in recorder.not_applicable["parity.kv_cache"]
    assert "the model has no capability hf_export" in recorder.not_applicable["parity.hf"]


def test_what_was_measured_is_right(recorder):
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert values["gradcheck.max_relative_error"] < 1e-5
    assert values["gradcheck.min_cosine"] > 0.999999
    for name in ("inert_terms", "unreached_modules", "untrained_params"):
        assert values[f"gradient_reach.{name}"] == 0, name
    assert values["params.count_minus_analytic.total"] == 0
    assert values["updates.unchanged_tensors"] == 0


def test_a_resumed_training_ends_with_the_same_bits(steps):
    _, states = steps
    rest = list(Trainer.create(SPEC, CONFIG, TOKENS, TRAIN, domain_batches=DOMAIN).steps(states[2][1]))
    expected, actual = states[-1][1].state_dicts, rest[-1].snapshot().state_dicts
    for file, tensors in expected.items():
        assert [name for name, tensor in tensors.items() if not torch.equal(tensor, actual[file][name])] == []


def test_recomputing_blocks_changes_no_gradient():
    gradients = []
    for size in (None, 1):
        model = init_model(SPEC, replace(CONFIG, num_hidden_layers=2), VOCAB_SIZE, 0).train()
        torch.nn.init.normal_(model.layers[0].mixing.weight)
        SPEC.blocks(model).blocks_per_checkpoint = size
        (objective,) = SPEC.objectives(model, -100)
        objective.loss(PairSequences().get_batch(np.arange(3)))["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
