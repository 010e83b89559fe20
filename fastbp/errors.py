"""Errors of fastbp's own, where Python has none that fits."""

__all__ = ["ModelFileError"]


class ModelFileError(ValueError):
    """A file is no network that can be loaded: damaged, of something else, or of a newer format.

    Examples
    --------
    >>> issubclass(ModelFileError, ValueError)
    True
    """
