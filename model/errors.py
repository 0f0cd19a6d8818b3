"""The one exception for mistakes a person can mend."""


class UserError(Exception):
    """Bad input. The message is one line: what was wrong, where, and what to do. The CLI prints it and exits with 2."""
