"""Encode records as token ids and decode them again."""
