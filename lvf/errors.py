"""The one exception that speaks to the user: printed as a message, without a traceback."""


class UserError(Exception):
    """Something the user can mend: what was wrong, where, what is allowed, and the remedy."""


class PreparationInterruptedError(UserError):
    """Preparing data stopped for a reason outside of the data; finished parts are kept."""
