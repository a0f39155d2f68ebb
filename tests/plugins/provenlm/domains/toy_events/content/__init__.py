"""Hold code that reads the content of a record for several stages; none is needed."""
