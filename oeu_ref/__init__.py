"""OEU, Orthogonal Entropy Unlearning for quantized networks (arXiv 2602.00567): a reference that proves itself.

`oeu_ref.reference` is the mathematics in NumPy, `oeu_ref.core` the same in PyTorch for any model and device,
`oeu_ref.conformance` the laws that any implementation must satisfy. `python -m oeu_ref --help` lists the commands.
"""

__version__ = "0.1.0"
