"""The one exception a user is meant to read."""

import errno


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line: what was wrong, and what to do.

    Library callers catch it like any ``ValueError``; the command line prints it and exits with code 2.
    """


DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers with which a write says that there is no room for it."""
