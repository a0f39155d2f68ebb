"""A figure or a table of an audit in, the only form in which a number gets onto a page out."""

from provenlm.core.audit import Figure, Table
from provenlm.reporting.evidence import Source
from provenlm.reporting.markdown import Markdown, link, table, text
from provenlm.reporting.number_format import exact, plain, shown


def cite(source: Source, name: str, figure: Figure) -> Markdown:
    """The figure as a reader wants it, linked to its audit; its id and its exact value are the link's title."""
    mark = "≈ " if figure.kind == "estimated" else ""
    value = "" if isinstance(figure.value, str) else f" = {exact(figure.value)} {figure.unit}".rstrip()
    words = shown(figure.value, figure.unit) or "(empty)"
    return link(text(mark + words), source.path, f"{source.name}.{name}{value}")


def tabled(item: Table) -> Markdown:
    """The rows of an audit's table; what is text in it stays text."""
    numeric = [all(not isinstance(row[i], str) for row in item.rows) for i in range(len(item.columns))]
    rows = [[text(cell if isinstance(cell, str) else plain(cell)) for cell in row] for row in item.rows]
    return table([text(column) for column in item.columns], rows, numeric)
