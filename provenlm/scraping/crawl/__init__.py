"""Crawl web sites politely, one queue per host, with a store that survives a kill."""
