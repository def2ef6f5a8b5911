"""How anything is judged: what a law is, the inputs on which it is tried, and how what is judged is called.

Nothing here knows a law: those of the six operations are in `oeu_ref.conformance`, all others in `oeu_ref.optional`.
"""
