"""The nets of one recipe in two checkouts in; their loss on the records that neither was trained on, and the difference, as JSON out."""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

from provenlm.core import config as parameters
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.core.progress import say
from provenlm.evaluation.confidence import ratio
from provenlm.evaluation.probe import Subject
from provenlm.evaluation.suite import Settings
from provenlm.evaluation.token_loss import Floats, measure, windows
from stages import runner
from stages.validate import subject_of


def main() -> None:
    """Exit 0 with one JSON line, without `difference` if no record was held out by both; exit 1 with one line on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.compare", description=__doc__)
    parser.add_argument("recipe", help="a name below `recipes` in params.yaml")
    parser.add_argument("other", type=Path, help="another checkout of the project, with the recipe's tokens and net")
    options = parser.parse_args()
    try:
        found = compared(options.recipe, Path.cwd(), options.other)
    except UserError as error:
        sys.exit(f"compare {options.recipe}: {error}")
    say(json.dumps(found))


def compared(recipe: str, here: Path, other: Path) -> dict[str, float]:
    """Bits per byte of both nets on the records that both hold out, here minus there, with its 95 % interval over records.

    Each net reads them through the codec that it was trained with; bits per byte do not depend on it.
    """
    runs = [runner.Run("validate", "recipes", recipe, Layout(root), parameters.load(Layout(root).params)) for root in (here, other)]
    settings = runs[0].settings("validate", Settings)
    torch.set_num_threads(settings.threads)
    subjects = [subject_of(run, run.settings("validate", Settings), run.row["train"]["seed"])[0] for run in runs]
    shared = sorted(set.intersection(*(set(subject.tokens.val.record_ids) for subject in subjects)))
    if not shared:
        return {"records": 0}
    bits_D, others_D = (by_record(subject, shared, settings.loss.batch_tokens) for subject in subjects)
    sizes = dict(zip(subjects[0].tokens.val.record_ids, subjects[0].tokens.val.bytes.tolist(), strict=True))
    bytes_D = np.array([sizes[name] for name in shared], np.float64)
    difference = ratio(bits_D - others_D, bytes_D)
    return {
        "records": len(shared),
        "bytes": int(bytes_D.sum()),
        "here": float(bits_D.sum() / bytes_D.sum()),
        "there": float(others_D.sum() / bytes_D.sum()),
        "difference": difference.value,
        **({"low": difference.low, "high": difference.high} if len(shared) > 1 else {}),
    }


def by_record(subject: Subject, names: list[str], batch_tokens: int) -> Floats:
    """The loss of `subject`'s net on each held-out record of `names`, in bits, (D,)."""
    split = subject.tokens.val
    places = {name: place for place, name in enumerate(split.record_ids)}
    chosen_D = np.array([places[name] for name in names], np.int64)
    losses = measure(subject, split, windows(split, subject.length, chosen_D), batch_tokens, "held out by both")
    return losses.by_document(losses.nats, len(split.record_ids))[chosen_D] / math.log(2)


if __name__ == "__main__":
    main()
