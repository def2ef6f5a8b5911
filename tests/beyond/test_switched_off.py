"""What goes beyond the paper, at its plain setting or only looking on: the run of the plain `OEU`, to the last bit."""

import copy
import warnings

import pytest
import torch
from torch import nn

from oeu_ref.beyond.curvature import BoundedOEU
from oeu_ref.beyond.monitor import Monitored
from oeu_ref.beyond.subspace import SubspaceOEU
from oeu_ref.beyond.updates import OrthogonalUpdates, ProtectedOEU
from oeu_ref.core import OEU, QuantMLP
from oeu_ref.distributed import ParallelOEU, synchronized

# each maps (model, optimizer, options of OEU) to an unlearner
SWITCHED_OFF = {
    "SubspaceOEU, memory=1": lambda m, o, **options: SubspaceOEU(m, o, memory=1, **options),
    "BoundedOEU, a bound that nothing reaches": lambda m, o, **options: BoundedOEU(
        m, o, max_retain_increase=1e6, **options
    ),
    "Monitored": lambda m, o, **options: Monitored(OEU(m, o, **options)),
    "ParallelOEU, one process": lambda m, o, **options: ParallelOEU(synchronized(m), o, **options),
    'ProtectedOEU, component="all"': lambda m, o, **options: ProtectedOEU(m, OrthogonalUpdates(o, "all"), **options),
}
# and with what it does, for the control: the run must be another one
SWITCHED_ON = {
    "SubspaceOEU": lambda m, o, **options: SubspaceOEU(m, o, memory=2, **options),
    "BoundedOEU": lambda m, o, **options: BoundedOEU(m, o, max_retain_increase=0.0, **options),
    "ProtectedOEU": lambda m, o, **options: ProtectedOEU(m, OrthogonalUpdates(o, "none"), **options),
}
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.3, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
}
OPTIONS = {
    "plain": {},
    "global": {"granularity": "global", "rescale": "match"},
    "tensor": {"layer": "tensor", "alpha": 0.5},
    "keep": {"mode": "keep"},
    "own loss": {"forget_loss": lambda z: (z * torch.rand(z.shape, dtype=z.dtype)).mean()},
}


class Network(nn.Module):
    """4 bits, BatchNorm, dropout, a frozen parameter and one that nothing uses; the quantizers have seen no batch."""

    def __init__(self):
        super().__init__()
        self.net, self.drop = QuantMLP((6, 16, 12, 4), batch_norm=True), nn.Dropout(0.2)
        self.unused = nn.Linear(2, 2)
        self.net.layers[1].bias.requires_grad_(False)

    def forward(self, x):
        return self.drop(self.net(x))


def run(make, optimizer, steps=4, **options):
    """(reports without what a class adds to them, all that the run leaves: model, optimizer, next random numbers)."""
    torch.manual_seed(0)
    model = Network().eval()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    unlearner, reports = make(model, optimizer, **options), []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        forget, retain = (torch.rand(n, 6, generator=generator) for n in (7, 12))
        report = dict(vars(unlearner.step(forget, retain, torch.randint(0, 4, (12,), generator=generator))))
        assert report.pop("update_share", 1.0) == 1.0 or "beta" in options
        reports.append(report)
    left = dict(model.state_dict())
    for i, values in optimizer.state_dict()["state"].items():
        left |= {f"{i} {name}": torch.as_tensor(value) for name, value in values.items()}
    left["modes"] = torch.tensor([module.training for module in model.modules()])
    return reports, {**copy.deepcopy(left), "drawn": torch.rand(3)}


@pytest.mark.filterwarnings("ignore::oeu_ref.beyond.monitor.UnlearningWarning")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_switched_off_it_is_the_plain_run_to_the_last_bit(name, optimizer, options):
    """Reports, weights, BatchNorm's statistics, steps of quantizers, modes, optimizer and random numbers."""
    expected, found = (run(make, optimizer, **OPTIONS[options]) for make in (OEU, SWITCHED_OFF[name]))
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert [key for key, value in found[1].items() if not torch.equal(value, expected[1][key])] == []


@pytest.mark.parametrize("name", SWITCHED_ON)
def test_control_switched_on_it_is_another_run(name):
    """The same measurement tells the runs apart once the class does something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = (run(make, "momentum", beta=20.0)[1] for make in (OEU, SWITCHED_ON[name]))
    assert any(not torch.equal(value, expected[key]) for key, value in found.items())


class Broken(torch.optim.SGD):
    """An optimizer that raises in its third step, before it has changed anything."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return (
            super().step(closure) if self.steps != 3 else torch.optim.SparseAdam(self.param_groups[0]["params"]).step()
        )


@pytest.mark.filterwarnings("ignore::oeu_ref.beyond.monitor.UnlearningWarning")
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "third step"])
@pytest.mark.parametrize("name", ["OEU", *SWITCHED_OFF])
def test_what_the_optimizer_raises_leaves_all_as_it_was(name, steps):
    """Weights, statistics, steps of quantizers that have seen no batch, momentum and memory."""
    torch.manual_seed(0)
    model = Network()
    optimizer = Broken(model.net.parameters(), 0.3, momentum=0.9)
    optimizer.steps = 2 - steps
    unlearner = ({"OEU": OEU} | SWITCHED_OFF)[name](model, optimizer)
    forget, retain, labels = torch.rand(7, 6), torch.rand(12, 6), torch.randint(0, 4, (12,))
    for _ in range(steps):
        unlearner.step(forget, retain, labels)
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    own = lambda: [str(vars(part)) for name, part in vars(unlearner).items() if name in ("remembered", "monitor")]
    remembered = own()
    with pytest.raises(RuntimeError, match="SparseAdam"):
        unlearner.step(forget, retain, labels)
    assert [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])] == []
    after = optimizer.state_dict()["state"]
    assert after.keys() == state["state"].keys()
    assert all(
        torch.equal(after[i]["momentum_buffer"], values["momentum_buffer"]) for i, values in state["state"].items()
    )
    assert own() == remembered
