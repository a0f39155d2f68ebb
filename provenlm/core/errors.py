"""The one exception that is the user's to mend: its message is shown on the first line, without a stack trace."""


class UserError(Exception):
    """A mistake in what the user gave us. The message names the file and key and says what would be right."""
