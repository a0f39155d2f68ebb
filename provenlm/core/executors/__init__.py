"""Apply a function to each record of a corpus, in this process or on Daft."""
