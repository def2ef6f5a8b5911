"""Training of a quantized network, the one loop that all unlearning methods share, and evaluation."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn
from torch.nn import functional

from .. import boundary, distributed
from ..core.unlearner import NonFiniteError
from ..data.samples import Batches, Samples
from ..methods.method import all_logits
from ..methods.protocol import SHUFFLED
from ..passes import class_logits, recalibrate_batchnorm, undone, undone_on_error
from .checkpoints import Checkpoint
from .options import SCHEDULES


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained: SGD with Nesterov momentum and a one-cycle learning rate.

    epochs, batch_size >= 1; learning_rate > 0: the cycle's peak; momentum in [0, 1]; weight_decay >= 0.
    Raises TypeError or ValueError, naming the field, for a value out of range.
    Source: Smith and Topin, "Super-Convergence", 2018, for the one-cycle learning rate.
    """

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self):
        boundary.integer("epochs", self.epochs, 1)
        boundary.integer("batch_size", self.batch_size, 1)
        boundary.positive("learning_rate", self.learning_rate)
        boundary.number("momentum", self.momentum, 0, 1)
        boundary.number("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class UnlearnConfig:
    """How a network unlearns, whatever the method.

    forget_batch, retain_batch >= 1: samples in each step's two batches; schedule: the learning rate over the run,
    "constant", or falling to zero, which the step after the last would have, along a line ("linear") or half a
    cosine ("cosine"); recalibrated: whether BatchNorm's statistics are estimated anew on the retain set after the last
    step, by `recalibrate_batchnorm`.
    Raises TypeError or ValueError, naming the field, for a value out of range.
    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, for the cosine.
    """

    forget_batch: int = 128
    retain_batch: int = 128
    schedule: str = "constant"
    recalibrated: bool = False

    def __post_init__(self):
        boundary.integer("forget_batch", self.forget_batch, 1)
        boundary.integer("retain_batch", self.retain_batch, 1)
        boundary.one_of("schedule", self.schedule, SCHEDULES)
        boundary.instance("recalibrated", self.recalibrated, bool)

    def rate(self, done, steps):
        """Factor of the learning rate in the step after `done` of `steps` ones: 1 in the first, more than 0 in all."""
        left = 1 - done / steps
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.schedule]

    def runs(self, steps):
        """Numbers of steps by the run that shows them: a shorter one is a longer one's beginning, unless rates fall."""
        return [tuple(steps)] if self.schedule == "constant" else [(count,) for count in steps]


def build(make, seed):
    """Make a model whose initial weights are a function of the seed, without touching PyTorch's global generator.

    make: callable without arguments that returns a model; seed: integer >= 0.  Returns the model.
    """
    with seeded(seed):
        return make()


@contextlib.contextmanager
def seeded(seed):
    """PyTorch's global generator, which layers draw from and take no other, borrowed, seeded, and put back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(boundary.integer("seed", seed, 0))
        yield


def train(model, samples, config, generator, on_epoch=None, augment=None, checkpoint=None):
    """Quantization-aware training by cross-entropy, in place. Retrain is this, on the retain set alone.

    model: maps (N, ...) to logits (N, K); samples: `Samples`; config: `TrainConfig`; generator: of the order of
    samples and of what augment draws; on_epoch: called with (epochs done, mean loss) after each epoch; augment: as in
    `Batches`; checkpoint: a `oeu_ref.lab.checkpoints.Checkpoint`, to which each epoch is saved and from which an
    interrupted training goes on, to the same weights bit for bit.
    Returns the mean loss of each epoch, in nats: a list of `config.epochs` floats.  The model is left in eval mode.
    Raises TypeError or ValueError, naming the argument, for bad arguments, no samples, a label that the model has no
    output for, or a checkpoint that does not belong to it, and `NonFiniteError` (a ValueError) for inputs that are not
    finite: the model is then as before; `NonFiniteError` too as soon as an epoch's loss is not finite.
    """
    boundary.instance("model", model, nn.Module, "torch.nn.Module")
    boundary.instance("config", config, TrainConfig)
    _check_samples("samples", samples)
    boundary.instance("generator", generator, torch.Generator, "torch.Generator")
    _check_helpers(checkpoint, augment=augment, on_epoch=on_epoch)
    lowest, highest = int(samples.labels.min()), int(samples.labels.max())
    if lowest < 0:
        raise ValueError(f"samples must have labels of at least 0, got {lowest}")
    steps = max(1, len(samples) // config.batch_size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have at least one parameter that requires a gradient")
    momentum, decay = config.momentum, config.weight_decay
    optimizer = torch.optim.SGD(parameters, config.learning_rate, momentum, weight_decay=decay, nesterov=momentum > 0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps * config.epochs, cycle_momentum=False
    )
    source = Batches(samples, config.batch_size, generator, augment)
    losses = []
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": source}
    if checkpoint is not None and (saved := checkpoint.restore(**parts)) is not None:
        losses = saved["losses"]
    untouched = undone_on_error(model, generator)  # until the first update
    for epoch in range(len(losses), config.epochs):
        total = 0.0
        for _ in range(steps):
            with untouched:
                if not model.training:  # else its layers are in the modes that its owner gave them
                    model.train()
                batch = next(source)
                mine = distributed.shard(batch)
                logits = class_logits(model, mine.inputs)
                if highest >= logits.shape[1]:
                    raise ValueError(
                        f"samples must have labels below {logits.shape[1]}, the model's outputs, got {highest}"
                    )
            untouched = contextlib.nullcontext()
            loss = distributed.part(functional.cross_entropy(logits, mine.labels), len(mine), len(batch))
            optimizer.zero_grad()
            distributed.backward(loss, parameters)
            optimizer.step()
            schedule.step()
            total += distributed.total(loss.detach())  # stays on the device: reading it at each step would wait
        losses.append(float(total) / steps)
        if not math.isfinite(losses[-1]):
            raise NonFiniteError(f"the training loss must be finite, got {losses[-1]} in epoch {epoch + 1}")
        if on_epoch is not None:
            on_epoch(epoch + 1, losses[-1])
        if checkpoint is not None:
            checkpoint.save(**parts, losses=losses)
    model.eval()
    return losses


def unlearn(
    method,
    forget,
    retain,
    steps,
    config,
    generators,
    stop=None,
    on_step=None,
    augment=None,
    checkpoint=None,
    save_every=50,
    order=None,
):
    """The loop of every unlearning method: draw batches, let the method update the model, until told to stop.

    method: anything with `relabel(forget) -> Samples`, called once, and `step(forget_batch, retain_batch) -> report`,
    as in `oeu_ref.methods`; forget, retain: `Samples`, or endless batches of them that come in sizes and an order
    of their own, as `oeu_ref.own.sources.Repeated`; steps >= 0: at most so many; config: `UnlearnConfig`;
    generators: two, for the order of forget and of retain samples; stop: callable without arguments, asked before each
    step, True ends the loop; on_step: called with (steps done, report) after each step; augment: as in
    `oeu_ref.data.samples.Batches`, for both batches; checkpoint: a `Checkpoint` to which the state is saved after each
    `save_every` steps, and from which an interrupted run goes on; the method must then be a `Method`, newly made from
    the original model; order: function of the number of steps taken that says which batches the next step has, (forget,
    retain), True or False each, as `Replication.order` gives it; None: both, at every step; "shuffled": what is in the
    next `Mixed` batch of retain_batch samples, drawn by the retain generator, and the method is told (`together`).
    Returns the reports, one for each step taken.  The model is left in eval mode.
    Raises what the method raises; TypeError or ValueError, naming the argument, for others, or a foreign checkpoint.
    """
    if not (hasattr(method, "relabel") and hasattr(method, "step")):
        raise TypeError(f"method must have the functions relabel and step, got {type(method).__name__}")
    shuffled = isinstance(order, str) and boundary.one_of("order", order, (SHUFFLED,)) == SHUFFLED
    for name, data in (("forget", forget), ("retain", retain)):
        if shuffled or not isinstance(data, Iterator):
            _check_samples(name, data)
    falls = boundary.instance("config", config, UnlearnConfig).schedule != "constant"
    if falls and not hasattr(method, "optimizer"):
        raise TypeError(f"method must have an optimizer for a learning rate that falls, got {type(method).__name__}")
    if len(generators := boundary.sequence("generators", generators, "two torch.Generators")) != 2:
        raise ValueError(f"generators must be two, of forget and of retain samples, got {len(generators)}")
    for generator in generators:
        boundary.instance("generators", generator, torch.Generator, "pair of torch.Generator")
    _check_helpers(checkpoint, augment=augment, stop=stop, on_step=on_step, order=None if shuffled else order)
    if checkpoint is not None and stop is not None and not hasattr(stop, "__self__"):
        raise TypeError("stop must be a method of an object with a state, such as EntropyStop.reached, got a function")
    steps, save_every = boundary.integer("steps", steps, 0), boundary.integer("save_every", save_every, 1)
    forget = method.relabel(forget)
    reports = []
    parts = {}
    if shuffled:
        method.together = True
        sources = {"batches": Mixed(forget, retain, config.retain_batch, generators[1], augment)}
    else:
        sources = {"forget_batches": forget, "retain_batches": retain}
        for name, size, generator in zip(sources, (config.forget_batch, config.retain_batch), generators):
            if isinstance(sources[name], Samples):  # else it is endless batches already
                sources[name] = Batches(sources[name], size, generator, augment)
    # before a checkpoint is read, which has those of its last step, and groups of its own
    rates = [group["lr"] for group in method.optimizer.param_groups] if falls else []
    if checkpoint is not None:
        parts = {"method": method, **sources}
        if stop is not None:
            parts["stop"] = stop.__self__  # of the bound method `EntropyStop.reached`
        if (saved := checkpoint.restore(**parts)) is not None:
            known = [field.name for field in fields(method.Report)]  # a file of before may hold more
            reports = [method.Report(**{name: report[name] for name in known}) for report in saved["reports"]]
    while len(reports) < steps and not (stop is not None and stop()):
        if rates:
            _set_rates(method, [rate * config.rate(len(reports), steps) for rate in rates])
        if shuffled:
            batches = next(sources["batches"])
        else:
            which = (True, True) if order is None else order(len(reports))
            batches = [next(source) if drawn else None for source, drawn in zip(sources.values(), which)]
        reports.append(method.step(*batches))
        if on_step is not None:
            on_step(len(reports), reports[-1])
        if checkpoint is not None and (checkpoint.asked or len(reports) % save_every == 0):
            checkpoint.save(**parts, reports=[asdict(report) for report in reports])
    if rates:
        _set_rates(method, rates)
    if config.recalibrated and reports:
        recalibrate_batchnorm(method.model, retain.inputs, share=distributed.shard)
    method.model.eval()
    return reports


class Mixed(Batches):
    """Endless batches of forget and retain samples shuffled together, each as a pair, (what is to be forgotten in it,
    what is to be kept), None for a part that is empty.

    forget, retain: `Samples` of inputs of one shape; the rest as in `Batches`, both sets being passed over together.
    """

    def __init__(self, forget, retain, batch_size, generator, augment=None):
        both = (torch.cat([getattr(part, name) for part in (forget, retain)]) for name in ("inputs", "labels"))
        super().__init__(Samples(*both), batch_size, generator, augment)
        self.forget_size = len(forget)

    def __next__(self):
        batch = super().__next__()
        forgotten = self.order[self.position - len(batch) : self.position] < self.forget_size
        return tuple(batch[part] if part.any() else None for part in (forgotten, ~forgotten))


def _set_rates(method, rates):
    for group, rate in zip(method.optimizer.param_groups, rates):
        group["lr"] = rate


@contextlib.contextmanager
def as_left(model, retain, config):
    """The model as `unlearn` would leave it if no step came any more; what is other about it is put back afterwards.

    model, retain, config: as in `unlearn`. So a run can be looked at on its way, and goes on as if nobody had.
    """
    if not config.recalibrated:
        yield
        return
    with undone(model):
        recalibrate_batchnorm(model, retain.inputs, share=distributed.shard)
        yield


def _check_samples(name, samples):
    if len(boundary.instance(name, samples, Samples, "Samples")) == 0:
        raise ValueError(f"{name} must hold at least one sample, got none")
    if samples.inputs.is_floating_point() and not samples.inputs.isfinite().all():
        raise NonFiniteError(f"{name} must hold finite inputs, got NaN or infinity; nothing was changed")


def _check_helpers(checkpoint, **functions):
    """Raise TypeError, naming the argument, unless each is None or what its name says."""
    if checkpoint is not None:
        boundary.instance("checkpoint", checkpoint, Checkpoint)
    for name, value in functions.items():
        boundary.function(name, value)


def probabilities(model, inputs, batch_size=1024):
    """What the model predicts, in eval mode; each module's own mode is put back afterwards.

    model: maps (N, ...) to logits (N, K); inputs: (N, ...), N >= 1; batch_size >= 1.
    Returns a float64 NumPy array (N, K), rows sum to 1, ready for `oeu_ref.reference.metrics`.
    Raises TypeError or ValueError for other inputs, `NonFiniteError` for logits that are not finite.
    """
    if len(boundary.instance("inputs", inputs, torch.Tensor, "tensor")) == 0:
        raise ValueError(f"inputs must hold at least one sample, got shape {tuple(inputs.shape)}")
    logits = all_logits(model, inputs, boundary.integer("batch_size", batch_size, 1))
    # float64 on the CPU alone: there are devices without it; -inf, of a masked class, has the probability 0
    found = logits.cpu().double().softmax(dim=1)
    if not found.isfinite().all():
        raise NonFiniteError("the model's logits must be finite: its weights or inputs are not, or are too large")
    return found.numpy()


def predictions(model, samples, batch_size=1024):
    """(probabilities (N, K), labels (N,)) as NumPy arrays, the pair that the metrics take."""
    return probabilities(model, samples.inputs, batch_size), samples.labels.cpu().numpy()
