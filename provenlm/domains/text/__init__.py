"""Pages and documents in a natural or a programming language."""
