"""Support pages and documents in a natural or a programming language."""
