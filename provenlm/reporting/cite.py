"""A figure of an audit in, the only form in which a number gets onto a page out."""

from provenlm.core.audit import Figure
from provenlm.reporting.evidence import Source
from provenlm.reporting.markdown import Markdown, link, text
from provenlm.reporting.numbers import exact, shown


def cite(source: Source, name: str, figure: Figure) -> Markdown:
    """The figure as a reader wants it, linked to its audit; its id and its exact value are the link's title."""
    mark = "≈ " if figure.kind == "estimated" else ""
    value = "" if isinstance(figure.value, str) else f" = {exact(figure.value)} {figure.unit}".rstrip()
    words = shown(figure.value, figure.unit) or "(empty)"
    return link(text(mark + words), source.path, f"{source.name}.{name}{value}")
