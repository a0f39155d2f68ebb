"""Compare the models of a recipe in two checkouts by their held-out loss.

The loss is that on records that both held out; the result is JSON.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from provenlm.core import registry
from provenlm.core.config import load_params
from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.data.token_dataset import load_token_dataset
from provenlm.evaluation import assemble
from provenlm.evaluation.arrays import FloatArray
from provenlm.evaluation.confidence import ratio_interval
from provenlm.evaluation.probe import EvalContext
from provenlm.evaluation.suite import ValidateConfig
from provenlm.evaluation.token_loss import make_windows, token_losses
from provenlm.models.common.spec import require_capability, resolve_model
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training.checkpoints.checkpoint import load_model
from provenlm.training.config import TrainConfig
from stages import runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("recipe", help="name of an entry of `recipes` in params.yaml")
    parser.add_argument("other", type=Path, help="another checkout of the project that contains the recipe's tokens and model")


def main(args: argparse.Namespace) -> int:
    """Print the comparison as a JSON line and return 0.

    `difference` is absent if no record was held out by both.
    """
    log_line(json.dumps(compare_models(args.recipe, Path.cwd(), args.other)))
    return 0


def compare_models(recipe: str, root: Path, other_root: Path) -> dict[str, float]:
    """Compute bits per byte of both models, and the difference with its 95 % interval.

    Only records that both held out count.

    Each model uses the tokenizer that it was trained with; bits per byte do not depend on the tokenizer.
    """
    contexts = [
        runner.StageContext("validate", "recipes", recipe, ProjectPaths(path), load_params(ProjectPaths(path).params_yaml))
        for path in (root, other_root)
    ]
    for context in contexts:
        location = context.params.location("recipes", recipe, "model")
        require_capability(resolve_model(context.entry["model"], location).spec, "next_token_logits", location)
    config = contexts[0].parse_section("validate", ValidateConfig)
    torch.set_num_threads(config.threads)
    eval_contexts = [load_eval_context(context) for context in contexts]
    record_ids = sorted(set.intersection(*(set(eval_context.tokens.val.record_ids) for eval_context in eval_contexts)))
    if not record_ids:
        return {"records": 0}
    bits_D, other_bits_D = (
        bits_per_record(eval_context, record_ids, config.loss_eval.tokens_per_batch) for eval_context in eval_contexts
    )
    sizes = dict(zip(eval_contexts[0].tokens.val.record_ids, eval_contexts[0].tokens.val.doc_bytes.tolist(), strict=True))
    bytes_D = np.array([sizes[name] for name in record_ids], np.float64)
    difference = ratio_interval(bits_D - other_bits_D, bytes_D)
    return {
        "records": len(record_ids),
        "bytes": int(bytes_D.sum()),
        "bits_per_byte": float(bits_D.sum() / bytes_D.sum()),
        "other_bits_per_byte": float(other_bits_D.sum() / bytes_D.sum()),
        "difference": difference.value,
        **({"ci_low": difference.low, "ci_high": difference.high} if len(record_ids) > 1 else {}),
    }


def load_eval_context(context: runner.StageContext) -> EvalContext:
    """Load model, tokens and tokenizer of a recipe as the validate stage does.

    Raises CheckpointError and DataError.
    """
    train_config = context.parse_section("train", TrainConfig)
    tokens_dir, model_dir = context.paths.corpus_dir(context.entry["corpus"], "tokens"), context.paths.model_dir(context.subject)
    tokens, trained_model = load_token_dataset(context.declare_input(tokens_dir)), load_model(context.declare_input(model_dir))
    assemble.require_same_vocab(trained_model, tokens, model_dir.relative_to(context.paths.root).as_posix(), context.subject)
    build_small = assemble.make_small_builder(trained_model, {}, context.params.location("recipes", context.subject, "model"))
    domain_batches = registry.load_domain(context.entry["domain"], "tokenize", TokenizeSpec)
    case = assemble.make_training_case(trained_model.spec, tokens, train_config, build_small, domain_batches)
    tokenizer = load_tokenizer(tokens_dir / "tokenizer", context.entry["domain"])
    return assemble.make_eval_context(trained_model, tokens, tokenizer, case, build_small, train_config.seed)


def bits_per_record(eval_context: EvalContext, record_ids: list[str], batch_tokens: int) -> FloatArray:
    """Compute the loss of a model on each held-out record, in bits.

    Returns (D,), in the order of `record_ids`.
    """
    split = eval_context.tokens.val
    index_of = {name: index for index, name in enumerate(split.record_ids)}
    selected_D = np.array([index_of[name] for name in record_ids], np.int64)
    losses = token_losses(
        eval_context, split, make_windows(split, eval_context.max_seq_len, selected_D), batch_tokens, "common validation records"
    )
    return losses.sum_by_document(losses.nats, len(split.record_ids))[selected_D] / math.log(2)
