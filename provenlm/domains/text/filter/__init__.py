"""Filter text by statistics, quality rules, personal data and language."""
