"""Checks of arrays that the reference's files share, worded like those of the core."""

import numpy as np


def array(name, values):
    """Return `values` as an array; raise TypeError for nested lists that have no common shape."""
    try:
        return np.asarray(values)
    except ValueError:
        raise TypeError(f"{name} must be an array, rows of one length, got a ragged {type(values).__name__}") from None
