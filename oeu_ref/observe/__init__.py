"""Which step of OEU a training script takes, seen from what lies in `.grad`: `observe(model, optimizer)`."""

from .observer import observe

__all__ = ["observe"]
