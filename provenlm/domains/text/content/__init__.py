"""Hold code that several stages share to read records; UTF-8 needs none."""
