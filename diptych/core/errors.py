"""The errors that a user's values cause; each message names the place, what was found and what is needed."""


class ConfigError(ValueError):
    """A config field is unknown, impossible or not supported."""


class CheckpointError(ValueError):
    """A file or directory of weights cannot be read, matched or written as asked."""


class InputError(ValueError):
    """An argument of a call does not fit the model or the other arguments."""
