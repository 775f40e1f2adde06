"""What a user is meant to read: the one exception, and lines about what was done with what they gave."""

import errno
import warnings

LONGEST = 800


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line: what was wrong, and what to do.

    Library callers catch it like any ``ValueError``; the command line prints it and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Notice(UserWarning):
    """Something the user gave was used, but not simply as it is; the message is one line that says how.

    An ordinary Python warning for library callers; the command line prints each as one line on stderr and goes on.
    """


def notice(message: str) -> None:
    """Warn with a :class:`Notice`."""
    warnings.warn(one_line(message), Notice, stacklevel=3)


def check_positive(**options: int | None) -> None:
    """Refuse numbers below 1, by the name of their option.

    Raises:
        UserError: which, and what it is.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected a positive number, got {value}")


def one_line(message: str) -> str:
    """A message as one line of bearable length, whatever file names and contents it quotes; nothing in it commands a terminal."""
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in " ".join(message.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers with which a write says that there is no room for it."""
