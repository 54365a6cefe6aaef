"""The one error of this room, raised by every reader of a file that others made."""


class WeightsError(ValueError):
    """A file of weights or arrays is damaged, unsafe, of another kind, or fits no network."""
