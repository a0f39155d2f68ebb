"""Find duplicate records and repeated paragraphs."""
