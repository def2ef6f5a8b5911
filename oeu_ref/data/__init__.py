"""Data sets, splits and what is to be forgotten: all that is read before anything is trained."""
