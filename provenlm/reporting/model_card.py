"""What is known of a recipe's net in, its model card out."""

import math
from collections.abc import Iterator
from typing import Any

from provenlm.core.audit import Figure
from provenlm.reporting.cards import NO_LICENCE, UNKNOWN, UNMEASURED, Card, card, file_of, listed
from provenlm.reporting.evidence import leaves
from provenlm.reporting.markdown import Markdown, code, link, text

ALWAYS = ("heldout.bits_per_byte", "heldout.perplexity", "heldout.accuracy")
MACHINE = ("machine", "system", "cores", "device", "threads", "precision")


def model_card(about: Card) -> str:
    """The card of a recipe whose audits are `train` and `validate`."""
    return card("Model card of", about, _facts(about), _sections(about))


def corpus(about: Card) -> str | None:
    """The corpus that the net was trained on."""
    found = about.setting("train", "corpus")
    return found if isinstance(found, str) else None


def _facts(about: Card) -> dict[str, Any]:
    named, kind = corpus(about), (about.setting("train", "net") or {}).get("kind")
    return {
        "license": NO_LICENCE,
        "tags": ["provenlm", *([kind] if kind else [])],
        **({"datasets": [named]} if named else {}),
        "model-index": [{"name": about.name, "results": [_results(about, named or "unknown")]}],
    }


def _results(about: Card, named: str) -> dict[str, Any]:
    prefix = f"{about.name}/validate."
    names = [*ALWAYS, *(check.id.removeprefix(prefix) for check in about.checks if check.id.startswith(prefix))]
    found = [(name, figure) for name in dict.fromkeys(names) if (figure := about.figure("validate", name)) and _number(figure)]
    source = about.sources.get("validate")
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": named, "name": named, "split": "validation"},
        "metrics": [{"type": name, "value": figure.value, "name": f"{figure.meaning} ({figure.unit})"} for name, figure in found],
        "source": {"name": source.name if source else "unknown", "url": source.path if source else ""},
    }


def _number(figure: Figure) -> bool:
    return not isinstance(figure.value, str) and math.isfinite(figure.value)


def _sections(about: Card) -> Iterator[tuple[int, str, Markdown]]:
    named = corpus(about)
    trained_on = link(text(named), file_of(named), "") if named else UNKNOWN
    kind = (about.setting("train", "net") or {}).get("kind")
    total, active = about.cited("validate", "parameters.total"), about.cited("validate", "parameters.active")
    model = Markdown(f"{code(str(kind)) if kind else UNKNOWN}; {total} in the built net, {active} active for a token")
    yield 2, "Model Details", Markdown("")
    yield (
        3,
        "Model Description",
        listed(
            [
                ("Developed by", UNKNOWN),
                ("Funded by", UNKNOWN),
                ("Shared by", UNKNOWN),
                ("Model type", model),
                ("Language(s) (NLP)", UNKNOWN),
                ("License", UNKNOWN),
                ("Finetuned from model", Markdown("none: the weights begin at random")),
            ]
        ),
    )
    yield 2, "Uses", Markdown("")
    yield (
        3,
        "Direct Use",
        Markdown(f"Writing on text of the kind it was trained on: {code(f'python -m provenlm.cli.generate {about.name}')}."),
    )
    yield 3, "Out-of-Scope Use", Markdown("Anything that no check below measured.")
    yield 2, "Bias, Risks, and Limitations", _risks(about)
    yield 3, "Recommendations", about.failed()
    yield (
        2,
        "How to Get Started with the Model",
        Markdown(
            f"{code(f'python -m provenlm.cli.export {about.name} FOLDER')} writes a folder that `AutoModelForCausalLM.from_pretrained` and "
            "`AutoTokenizer.from_pretrained` of transformers load."
        ),
    )
    yield 2, "Training Details", Markdown("")
    yield (
        3,
        "Training Data",
        Markdown(f"{trained_on}; {about.cited('train', 'tokens')} were trained on, {about.cited('train', 'epochs')}."),
    )
    yield 3, "Training Procedure", Markdown("")
    yield 4, "Training Hyperparameters", about.told("train", "train")
    yield (
        4,
        "Speeds, Sizes, Times",
        listed(
            (word, about.cited("train", name))
            for word, name in (
                ("Wall time", "seconds"),
                ("Steps", "steps"),
                ("Throughput", "tokens_per_second"),
                ("Peak memory", "peak_memory"),
                ("First loss", "loss.first"),
                ("Last loss", "loss.last"),
                ("Why it ended", "stopped"),
            )
        ),
    )
    yield 2, "Evaluation", Markdown("")
    yield (
        3,
        "Testing Data, Factors & Metrics",
        Markdown(
            f"Held-out records of {trained_on}: {about.cited('validate', 'heldout.documents')}, kept apart by cluster of near duplicates."
        ),
    )
    yield 3, "Results", about.checked()
    yield (
        2,
        "Environmental Impact",
        listed(
            [
                ("Hardware Type", _machine(about)),
                ("Time used", about.cited("train", "cpu_seconds")),
                ("Cloud Provider", UNKNOWN),
                ("Compute Region", UNKNOWN),
                ("Carbon Emitted", UNKNOWN),
            ]
        ),
    )
    yield 2, "Technical Specifications", Markdown("")
    yield 3, "Model Architecture and Objective", about.told("train", "net")
    yield 3, "Compute Infrastructure", Markdown("")
    yield 4, "Hardware", _machine(about)
    yield 4, "Software", _software(about)
    for title in ("Citation", "Model Card Authors", "Model Card Contact"):
        yield 2, title, UNKNOWN


def _risks(about: Card) -> Markdown:
    """What could be measured of them; bias was not."""
    copied = about.sources["validate"].audit if "validate" in about.sources else None
    names = [name for name in (copied.figures if copied else {}) if name.endswith(".copied.longest")]
    return listed(
        [
            ("Bias", UNKNOWN),
            ("Held-out less training loss", about.cited("validate", "training.gap")),
            *((f"Longest copy of training text, {name.split('.')[-3]}", about.cited("validate", name)) for name in names),
        ]
    )


def _machine(about: Card) -> Markdown:
    known = [(key, about.fact("train", key)) for key in MACHINE]
    return Markdown(" · ".join(f"{key} {text(str(value))}" for key, value in known if value is not None)) or UNMEASURED


def _software(about: Card) -> Markdown:
    found = about.fact("train", "versions")
    return Markdown(" · ".join(f"{text(key)} {text(value)}" for key, value in leaves(found))) if found else UNMEASURED
