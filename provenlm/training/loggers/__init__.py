"""Send the rows of the step history to loggers while training runs."""
