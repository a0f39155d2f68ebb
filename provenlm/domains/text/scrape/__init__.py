"""Scrape text from web sites, feeds, repositories, folders, tables and WARC files."""
