"""Read sources: folders, git repositories, tables, WARC files and feeds."""
