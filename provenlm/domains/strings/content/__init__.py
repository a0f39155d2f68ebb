"""Hold code that reads the content of a record for several stages; text is UTF-8 and needs none."""
