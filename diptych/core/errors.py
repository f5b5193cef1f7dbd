"""The errors that a user's values cause; each message names the place, the value found and the one needed."""


class ConfigError(ValueError):
    """A config field is unknown, invalid or not supported."""


class CheckpointError(ValueError):
    """A file or directory of weights cannot be read, matched or written as requested."""


class InputError(ValueError):
    """An argument of a call does not fit the model or the other arguments."""
