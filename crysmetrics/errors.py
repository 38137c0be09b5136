"""Errors that a user can cause."""


class UserError(Exception):
    """Something the user can mend; its text is one clear sentence (exit status 2 in the CLI)."""


class InputError(UserError):
    """A path, file or set of structures that can't be used at all."""


class MissingPackageError(UserError):
    """What was asked for needs a package that is an extra, and is not installed."""
