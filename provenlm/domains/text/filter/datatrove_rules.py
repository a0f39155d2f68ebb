"""Let datatrove's own filters decide on the published quality rules.

They need `pip install 'datatrove[io,processing]' spacy`. Words and sentences are those of datatrove's English tokenizer.
"""

from collections.abc import Callable, Mapping
from typing import Any

from provenlm.core.errors import ConfigError
from provenlm.domains.text.filter.quality_rules import QualityRules

Decide = Callable[[bytes], Mapping[str, str]]


def make_datatrove_rules(rules_by_name: Mapping[str, QualityRules]) -> Decide:
    """Build the function that returns the violated sets of a text.

    It gives datatrove's reason for each. Each set is that of datatrove with its own defaults and sees the whole text. Raises ConfigError if datatrove or spaCy is missing,
    or if a set has thresholds of its own.
    """
    if changed := [name for name, rules in rules_by_name.items() if rules != type(rules)()]:
        raise ConfigError(
            f"filter.quality_rules.{changed[0]} must have its default thresholds with decided_by: datatrove, got {rules_by_name[changed[0]]}"
        )
    try:
        import spacy  # noqa: F401
        from datatrove.data import Document
        from datatrove.pipeline import filters
    except ImportError as error:
        raise ConfigError(
            f"filter.quality_rules.decided_by: datatrove needs `pip install 'datatrove[io,processing]' spacy`, got {error}"
        ) from None
    classes = {
        "gopher": filters.GopherQualityFilter,
        "gopher_repetition": filters.GopherRepetitionFilter,
        "c4": filters.C4QualityFilter,
        "fineweb": filters.FineWebQualityFilter,
    }
    active: dict[str, Any] = {name: classes[name]() for name in rules_by_name}

    def violations(content: bytes) -> Mapping[str, str]:
        text = content.decode()
        if not text.strip():  # datatrove's filters divide by the number of words
            return dict.fromkeys(active, "empty")
        outcomes = {name: rule.filter(Document(text=text, id="")) for name, rule in active.items()}
        return {name: outcome[1] for name, outcome in outcomes.items() if outcome is not True}

    return violations
