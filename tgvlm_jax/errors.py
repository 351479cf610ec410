"""The one error that a person can do something about; on its own, so that it costs no import."""


class InputError(ValueError):
    """Something the user gave us is wrong; the message is one line that says what to do."""
