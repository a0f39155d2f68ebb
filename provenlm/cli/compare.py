"""The nets of one recipe in two checkouts in; their loss on the records that neither was trained on, and the difference, as JSON out."""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

from provenlm.core import config as parameters
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.evaluation.confidence import ratio_interval
from provenlm.evaluation.probe import EvalContext
from provenlm.evaluation.suite import ValidateConfig
from provenlm.evaluation.token_loss import FloatArray, make_windows, token_losses
from stages import runner
from stages.validate import load_eval_context


def main() -> None:
    """Exit 0 with one JSON line, without `difference` if no record was held out by both; exit 1 with one line on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.compare", description=__doc__)
    parser.add_argument("recipe", help="a name below `recipes` in params.yaml")
    parser.add_argument("other", type=Path, help="another checkout of the project, with the recipe's tokens and net")
    options = parser.parse_args()
    try:
        comparison = compare_models(options.recipe, Path.cwd(), options.other)
    except ProvenlmError as error:
        sys.exit(f"compare {options.recipe}: {error}")
    log_line(json.dumps(comparison))


def compare_models(recipe: str, root: Path, other_root: Path) -> dict[str, float]:
    """Bits per byte of both nets on the records that both hold out, here minus there, with its 95 % interval over records.

    Each net reads them through the codec that it was trained with; bits per byte do not depend on it.
    """
    contexts = [
        runner.StageContext(
            "validate", "recipes", recipe, ProjectPaths(path), parameters.load_params(ProjectPaths(path).params_yaml)
        )
        for path in (root, other_root)
    ]
    config = contexts[0].parse_section("validate", ValidateConfig)
    torch.set_num_threads(config.threads)
    eval_contexts = [
        load_eval_context(context, context.parse_section("validate", ValidateConfig), context.entry["train"]["seed"])[0]
        for context in contexts
    ]
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
        "here": float(bits_D.sum() / bytes_D.sum()),
        "there": float(other_bits_D.sum() / bytes_D.sum()),
        "difference": difference.value,
        **({"low": difference.low, "high": difference.high} if len(record_ids) > 1 else {}),
    }


def bits_per_record(eval_context: EvalContext, record_ids: list[str], batch_tokens: int) -> FloatArray:
    """The loss of `subject`'s net on each held-out record of `names`, in bits, (D,)."""
    split = eval_context.tokens.val
    index_of = {name: index for index, name in enumerate(split.record_ids)}
    selected_D = np.array([index_of[name] for name in record_ids], np.int64)
    losses = token_losses(
        eval_context, split, make_windows(split, eval_context.max_seq_len, selected_D), batch_tokens, "held out by both"
    )
    return losses.sum_by_document(losses.nats, len(split.record_ids))[selected_D] / math.log(2)


if __name__ == "__main__":
    main()
