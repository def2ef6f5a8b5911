"""Reliability: real runs that are killed, repeated, crowded and fed with bad files.  `pytest -m reliability`

Each module without `test_` in its name measures one thing and returns plain data. `figures` turns that into rows, what
was measured beside what is wanted, which the run prints in the end; the other tests call the same functions with
smaller numbers.
"""
