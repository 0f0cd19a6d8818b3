"""The one exception for mistakes a person can mend, and how others are told in a line."""


class UserError(Exception):
    """Bad input. The message is one line: what was wrong, where, and what to do. The CLI prints it and exits with 2."""


def first_line(error: object) -> str:
    """The first line of an error's message, cut to a readable length."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else f"{line[:200]}..."
