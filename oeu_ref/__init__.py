"""OEU, Orthogonal Entropy Unlearning for quantized networks (arXiv 2602.00567): a reference that proves itself.

`oeu_ref.reference` is the mathematics in NumPy, `oeu_ref.core` the same in PyTorch for any model and device,
`oeu_ref.conformance` the laws that any implementation must satisfy. `python -m oeu_ref --help` lists the commands.
What a program of one's own needs is here by name, in PUBLIC, and loaded when it is asked for.
"""

import importlib

__version__ = "0.1.0"

PUBLIC = {
    **{name: "core" for name in ("OEU", "EntropyStop", "quantize_model")},
    "recalibrate_batchnorm": "passes.batch_norm",
    **{name: "own.evaluation" for name in ("evaluate", "Evaluation")},
    **{name: "own.unlearning" for name in ("unlearn", "Run")},
    **{name: "own.advice" for name in ("suggest", "Suggestion")},
    **{name: "own.stop" for name in ("GuardedStop", "Watch")},
}
__all__ = list(PUBLIC)


def __getattr__(name):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{PUBLIC[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *PUBLIC})
