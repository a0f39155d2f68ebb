"""Cite metrics and tables of audits, the only source of numbers on a page."""

from provenlm.core.audit import AuditTable, Metric
from provenlm.reporting.evidence import AuditFile
from provenlm.reporting.markdown import Markdown, escape, link, table
from provenlm.reporting.number_format import exact_repr, format_number, format_value


def cite(file: AuditFile, name: str, metric: Metric) -> Markdown:
    """Format a metric for a reader, linked to its audit.

    The title of the link holds the id and the exact value.
    """
    prefix = "≈ " if metric.kind == "estimated" else ""
    value = "" if isinstance(metric.value, str) else f" = {exact_repr(metric.value)} {metric.unit}".rstrip()
    formatted = format_value(metric.value, metric.unit) or "(empty)"
    return link(escape(prefix + formatted), file.path, f"{file.name}.{name}{value}")


def cite_table(table_data: AuditTable) -> Markdown:
    """Format the rows of an audit's table; text cells stay text."""
    numeric = [all(not isinstance(row[index], str) for row in table_data.rows) for index in range(len(table_data.columns))]
    rows = [[escape(cell if isinstance(cell, str) else format_number(cell)) for cell in row] for row in table_data.rows]
    return table([escape(column) for column in table_data.columns], rows, numeric)
