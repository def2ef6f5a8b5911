"""Types of what `oeu_ref` exports; names, arguments and defaults are the code's: `tests/test_types.py`."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data.samples import Samples

__version__: str
__all__: list[str]
PUBLIC: dict[str, str]

Bits: TypeAlias = int | Literal["ternary", "binary"]
Data: TypeAlias = Samples | Dataset[Any] | Iterable[Any]
Metrics: TypeAlias = dict[str, float]
M = TypeVar("M", bound=nn.Module)

class Unlearner(Protocol):
    """What `unlearn` takes: an `OEU`, a method of `oeu_ref.methods`, or what steps as one of them does."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizer(self) -> Any: ...
    @property
    def step(self) -> Callable[..., Any]: ...

class Scheduler(Protocol):
    def step(self) -> Any: ...

class StepReport:
    forget_loss: float
    retain_loss: float
    forget_entropy: float
    cosine: float
    layer_cosines: dict[str, float]

class Plan:
    report: StepReport
    parameters: dict[str, nn.Parameter]
    forget_grads: dict[str, Tensor]
    retain_grads: dict[str, Tensor]
    projected_grads: dict[str, Tensor]
    direction: dict[str, Tensor]
    @property
    def residual(self) -> float: ...
    @property
    def layer_residuals(self) -> dict[str, float]: ...

class OEU:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    alpha: float
    beta: float
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        alpha: float = 1.0,
        beta: float = 1.0,
        granularity: Literal["layer", "global"] = "layer",
        rescale: Literal["undo", "match"] = "undo",
        layer: Literal["module", "tensor"] = "module",
        mode: Literal["train", "keep"] = "train",
        forget_loss: Callable[[Tensor], Tensor] | None = None,
    ) -> None: ...
    def step(self, forget_inputs: Tensor, retain_inputs: Tensor, retain_labels: Tensor) -> StepReport: ...
    def plan(self, forget_inputs: Tensor, retain_inputs: Tensor, retain_labels: Tensor) -> Plan: ...
    def take(self, plan: Plan) -> StepReport: ...
    def update(self, plan: Plan) -> StepReport: ...
    # the seam that a subclass overrides
    def loss_of_retain(self, logits: Tensor, labels: Tensor) -> Tensor: ...
    def project(self, parameters: Any, g_f: Any, g_r: Any, layers: Any, angles: Any) -> list[Tensor]: ...

class EntropyStop:
    history: list[tuple[float, float]]
    def __init__(
        self,
        model: nn.Module,
        forget_inputs: Tensor,
        unseen_inputs: Tensor,
        batch_size: int = 1024,
        every: int = 1,
    ) -> None: ...
    def reached(self) -> bool: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

def quantize_model(
    model: nn.Module,
    weight_bits: Bits = 4,
    activation_bits: Bits = 4,
    first_last_bits: Bits = 8,
    mask: Literal["clip", "round"] = "clip",
) -> nn.Module: ...
def recalibrate_batchnorm(
    model: M,
    retain_inputs: Tensor,
    batch_size: int = 256,
    share: Callable[[Tensor], Tensor] | None = None,
) -> M: ...

class Evaluation:
    metrics: Metrics
    attack: str
    samples: dict[str, int]
    per_class: dict[int, dict[str, Any]]
    retrain: Metrics | None
    AG: float | None
    ToW: float | None
    divergence: Metrics | None
    agreement: Metrics | None
    proxy: Metrics | None
    proxy_targets: Metrics | None
    proxy_gap: float | None
    def to_json(self) -> str: ...

def evaluate(
    model: nn.Module,
    forget: Data,
    retain: Data,
    test: Data,
    retrain: nn.Module | None = None,
    unseen: Data | None = None,
    before: nn.Module | Evaluation | Metrics | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Evaluation: ...

class Run:
    verdict: str
    status: str
    reports: list[Any]
    looks: list[dict[str, Any]]
    before: Metrics | None
    @property
    def reached(self) -> bool: ...
    def curve(self, name: str) -> tuple[list[int], list[float]]: ...
    def plot(self, path: str | PathLike[str] | None = None) -> Figure: ...

def unlearn(
    unlearner: Unlearner,
    forget: Data,
    retain: Data,
    max_steps: int,
    unseen: Data | None = None,
    stop: Watch | Callable[[], bool] | None = None,
    schedule: Literal["constant", "linear", "cosine"] | Scheduler = "constant",
    recalibrated: bool = False,
    every: int = 5,
    forget_batch: int = 128,
    retain_batch: int = 128,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    save_every: int = 50,
) -> Run: ...

class Suggestion:
    learning_rate: float
    beta: float
    steps: int
    gap: float
    start: float
    points: list[list[Any]]
    def plot(self, path: str | PathLike[str] | None = None) -> Figure: ...

def suggest(
    model: nn.Module,
    forget: Data,
    retain: Data,
    unseen: Data,
    make: Callable[[nn.Module, float, float], Unlearner] | None = None,
    learning_rates: Sequence[float] = ...,
    betas: Sequence[float] = ...,
    steps: Sequence[int] = ...,
    forget_batch: int = 128,
    retain_batch: int = 128,
    recalibrated: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Suggestion: ...

class Watch:
    looks: list[dict[str, Any]]
    status: str | None
    verdict: str | None
    def __init__(
        self, model: nn.Module, forget: Samples, retain: Samples, unseen: Samples | None = None, every: int = 1
    ) -> None: ...
    def ended(self) -> bool: ...
    def look(self, step: int) -> dict[str, Any]: ...
    def measure(self) -> dict[str, Any]: ...

class GuardedStop(Watch):
    def __init__(
        self,
        model: nn.Module,
        forget: Samples,
        retain: Samples,
        unseen: Samples,
        every: int = 1,
        max_steps: int | None = None,
        floor: float = 5.0,
        excess: float = 10.0,
        patience: int = 5,
        gone: Sequence[int] | None = None,
    ) -> None: ...
    def reached(self) -> bool: ...
