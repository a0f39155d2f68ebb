"""Render the model card of a recipe with the Hub's headings."""

import math
from collections.abc import Iterator
from typing import Any

from provenlm.core.audit import Metric
from provenlm.reporting.cards import (
    NOT_MEASURED,
    UNKNOWN,
    UNKNOWN_LICENSE,
    Card,
    card_filename,
    definition_list,
    describes_subject,
    render_card,
)
from provenlm.reporting.evidence import flatten
from provenlm.reporting.markdown import Markdown, code, escape, link

DEFAULT_METRICS = ("val.bits_per_byte", "val.perplexity", "val.accuracy")
HARDWARE_KEYS = ("machine", "system", "cores", "device", "threads", "precision")


def model_card(card: Card) -> str:
    """Render the card of a recipe with the audits `train` and `validate`."""
    return render_card("Model card of", card, _metadata(card), _sections(card))


def training_corpus(card: Card) -> str | None:
    """Return the name of the corpus that the model was trained on, or None."""
    name = card.config_section("train", "corpus")
    return name if isinstance(name, str) else None


def _metadata(card: Card) -> dict[str, Any]:
    dataset, kind = training_corpus(card), (card.config_section("train", "model") or {}).get("arch")
    return {
        "license": UNKNOWN_LICENSE,
        "tags": ["provenlm", *([kind] if kind else [])],
        **({"datasets": [dataset]} if dataset else {}),
        "model-index": [{"name": card.name, "results": [_results(card, dataset or "unknown")]}],
    }


def _results(card: Card, dataset: str) -> dict[str, Any]:
    prefix = f"{card.name}/validate."
    names = [
        *DEFAULT_METRICS,
        *(check.id.removeprefix(prefix) for check in card.checks if check.id.startswith(prefix) and describes_subject(check.id)),
    ]
    metrics = [
        (name, metric) for name in dict.fromkeys(names) if (metric := card.metric("validate", name)) and _is_finite_number(metric)
    ]
    file = card.audit_files.get("validate")
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": dataset, "name": dataset, "split": "validation"},
        "metrics": [
            {"type": name, "value": metric.value, "name": f"{metric.description} ({metric.unit})"} for name, metric in metrics
        ],
        "source": {"name": file.name if file else "unknown", "url": file.path if file else ""},
    }


def _is_finite_number(metric: Metric) -> bool:
    return not isinstance(metric.value, str) and math.isfinite(metric.value)


def _sections(card: Card) -> Iterator[tuple[int, str, Markdown]]:
    dataset = training_corpus(card)
    trained_on = link(escape(dataset), card_filename(dataset), "") if dataset else UNKNOWN
    kind = (card.config_section("train", "model") or {}).get("arch")
    total, active = card.cite("validate", "params.total"), card.cite("validate", "params.active.measured")
    model = Markdown(f"{code(str(kind)) if kind else UNKNOWN}; {total} in the model, {active} active per token")
    yield 2, "Model Details", Markdown("")
    yield (
        3,
        "Model Description",
        definition_list(
            [
                ("Developed by", UNKNOWN),
                ("Funded by", UNKNOWN),
                ("Shared by", UNKNOWN),
                ("Model type", model),
                ("Language(s) (NLP)", UNKNOWN),
                ("License", UNKNOWN),
                ("Finetuned from model", Markdown("none: trained from random initialization")),
            ]
        ),
    )
    yield 2, "Uses", Markdown("")
    yield (
        3,
        "Direct Use",
        Markdown(f"Generating text of the kind it was trained on: {code(f'provenlm generate {card.name}')}."),
    )
    yield 3, "Out-of-Scope Use", Markdown("Anything that the checks below do not measure.")
    yield 2, "Bias, Risks, and Limitations", _risks(card)
    yield 3, "Recommendations", card.failed_checks()
    yield (
        2,
        "How to Get Started with the Model",
        Markdown(
            f"{code(f'provenlm export {card.name} FOLDER')} writes a folder that `AutoModelForCausalLM.from_pretrained` and "
            "`AutoTokenizer.from_pretrained` of transformers load."
        ),
    )
    yield 2, "Training Details", Markdown("")
    yield (
        3,
        "Training Data",
        Markdown(f"{trained_on}; trained on {card.cite('train', 'tokens')}, {card.cite('train', 'epochs')}."),
    )
    yield 3, "Training Procedure", Markdown("")
    yield 4, "Training Hyperparameters", card.settings_line("train", "train")
    yield (
        4,
        "Speeds, Sizes, Times",
        definition_list(
            (word, card.cite("train", name))
            for word, name in (
                ("Wall time", "seconds"),
                ("Steps", "steps"),
                ("Throughput", "tokens_per_second"),
                ("Peak memory", "peak_memory"),
                ("First loss", "loss.first"),
                ("Last loss", "loss.last"),
                ("Stop reason", "stop_reason"),
            )
        ),
    )
    yield 2, "Evaluation", Markdown("")
    yield (
        3,
        "Testing Data, Factors & Metrics",
        Markdown(
            f"Held-out records of {trained_on}: {card.cite('validate', 'val.num_documents')}, kept apart by cluster of near duplicates."
        ),
    )
    yield 3, "Results", card.checks_table()
    yield (
        2,
        "Environmental Impact",
        definition_list(
            [
                ("Hardware Type", _machine(card)),
                ("Time used", card.cite("train", "cpu_seconds")),
                ("Cloud Provider", UNKNOWN),
                ("Compute Region", UNKNOWN),
                ("Carbon Emitted", UNKNOWN),
            ]
        ),
    )
    yield 2, "Technical Specifications", Markdown("")
    yield 3, "Model Architecture and Objective", card.settings_line("train", "model")
    yield 3, "Compute Infrastructure", Markdown("")
    yield 4, "Hardware", _machine(card)
    yield 4, "Software", _software(card)
    for title in ("Citation", "Model Card Authors", "Model Card Contact"):
        yield 2, title, UNKNOWN


def _risks(card: Card) -> Markdown:
    """List the measured risks; bias is not measured."""
    audit = card.audit_files["validate"].audit if "validate" in card.audit_files else None
    copy_metrics = [name for name in (audit.metrics if audit else {}) if name.endswith(".longest_train_overlap")]
    return definition_list(
        [
            ("Bias", UNKNOWN),
            ("Held-out less training loss", card.cite("validate", "train.generalization_gap")),
            *(
                (f"Longest copy of training text, sampling {name.split('.')[-2]}", card.cite("validate", name))
                for name in copy_metrics
            ),
        ]
    )


def _machine(card: Card) -> Markdown:
    hardware = [(key, card.provenance("train", key)) for key in HARDWARE_KEYS]
    return Markdown(" · ".join(f"{key} {escape(str(value))}" for key, value in hardware if value is not None)) or NOT_MEASURED


def _software(card: Card) -> Markdown:
    versions = card.provenance("train", "versions")
    return Markdown(" · ".join(f"{escape(key)} {escape(value)}" for key, value in flatten(versions))) if versions else NOT_MEASURED
