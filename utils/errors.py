"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can fix. The message is one line: what was looked for, where, what was found, and the fix."""
