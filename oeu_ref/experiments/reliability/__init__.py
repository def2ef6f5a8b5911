"""What `python -m oeu_ref selftest` measures: real runs that are killed, repeated, crowded and fed with bad files.

Each module measures one thing and returns plain data; `oeu_ref.experiments.selftest` makes a table of them, and the
tests call the same functions with smaller numbers.
"""
