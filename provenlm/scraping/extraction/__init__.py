"""Extract text, metadata and links from pages and files."""
