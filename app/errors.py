"""Mistakes of the user."""


class UserError(Exception):
    """A mistake that the user can mend: the sentence says the value and what is accepted."""
