"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line: what was wrong, and what to do.

    Library callers catch it like any ``ValueError``; the command line prints it and exits with code 2.
    """
