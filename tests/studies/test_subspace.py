"""The study of several retain gradients: its method, its probe, what it writes."""

import copy
import json

import pytest
import torch

from oeu_ref.beyond import subspace as core
from oeu_ref.core import QuantMLP
from oeu_ref.data.samples import digits, stream
from oeu_ref.lab.study import run as run_study
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import OrthogonalEntropy
from oeu_ref.studies import subspace as study
from oeu_ref.studies.one_step import Probe, inner
from oeu_ref.studies.one_step import norm as length_of


@pytest.fixture(scope="module")
def small():
    """A network on some digits that has learned little, float64 and unquantized, and the splits."""
    splits = digits(0)
    torch.manual_seed(0)
    model = QuantMLP((64, 12, 10), 32, 32, batch_norm=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(splits.retain.inputs), splits.retain.labels).backward()
        optimizer.step()
    return model, splits


@pytest.mark.parametrize("size, options", [(1, {}), (0, {"alpha": 0.0})])
def test_the_studys_method_is_oeu_for_one_gradient_and_unprojected_for_none(small, size, options):
    """Ten steps with momentum from the same weights on the same batches end at the same weights, up to rounding."""
    model, splits = small
    settings_ = Settings(0.1, 1.0)
    ends = []
    for make in (
        lambda *args: study.OrthogonalEntropyWithMemory(*args, size=size),
        lambda *args: OrthogonalEntropy(*args, **options),
    ):
        method = make(copy.deepcopy(model), splits.forget, settings_, stream(0, "method"))
        for i in range(10):
            method.step(splits.forget[:40], splits.retain[60 * i : 60 * (i + 1)])
        ends.append(torch.cat([p.detach().flatten() for p in method.model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    moved = (ends[1] - start).norm()
    assert (ends[0] - ends[1]).norm() < 1e-4 * moved and moved > 0.1


def test_a_longer_memory_is_that_of_the_class_it_is_named_for(small):
    """Five steps with m = 4 end where `SubspaceOEU` ends, and no others do."""
    model, splits = small
    ends = []
    for size in (4, 1):
        method = study.OrthogonalEntropyWithMemory(
            copy.deepcopy(model), splits.forget, Settings(0.1, 0.5), stream(0, "method"), size=size
        )
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        direct = core.SubspaceOEU(twin, optimizer, memory=4, beta=0.5)
        for i in range(5):
            kept = splits.retain[60 * i : 60 * (i + 1)]
            method.step(splits.forget[:40], kept)
            direct.step(splits.forget[:40].inputs, kept.inputs, kept.labels)
        ends.append(all(torch.equal(p, q) for p, q in zip(method.model.parameters(), twin.parameters())))
    assert ends == [True, False]


def test_a_probe_measures_what_taylor_says_and_stays_where_it_is(small):
    """Small steps change each loss by -s <g, u> + s^2/2 u^T H u; the ceiling has no first-order part; weights stay."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12), torch.nn.Tanh(), torch.nn.Linear(12, 10)]
    model, splits = torch.nn.Sequential(*layers).double(), small[1]  # smooth: a ReLU's kinks are no Taylor series
    as_double = lambda samples: type(samples)(samples.inputs.double(), samples.labels)
    forget, retain = as_double(splits.forget), as_double(splits.retain)
    probe = Probe(model, forget, retain, retain[:200], (1e-3, 1e-2))
    start = [p.detach().clone() for p in probe.named.values()]
    for history in (None, [probe.g_r["whole"]]):
        found = probe.measure(history)
        g = probe.g_f if history is None else core.projected(probe.g_f, history, probe.layers)
        unit = [d / length_of(g) for d in g]
        assert found["left"] == pytest.approx(length_of(g) / length_of(probe.g_f))
        slope = inner(probe.g_r["whole"], unit)
        for step, change in zip((1e-3, 1e-2), found["whole"]):
            assert change == pytest.approx(-step * slope + step**2 / 2 * found["curvature"], abs=step**3)
        assert found["cosine"] == pytest.approx(inner(probe.g_r["unseen"], unit) / length_of(probe.g_r["unseen"]))
        assert found["forget"][0] == pytest.approx(-1e-3 * inner(probe.g_f, unit), rel=0.05)
        assert all(torch.equal(a, b) for a, b in zip(start, probe.named.values()))
    assert abs(slope) < 1e-12 and found["curvature"] > 1e-3


def test_the_study_writes_what_its_json_file_holds(tmp_path):
    """A quick run: every direction and memory, a value a seed; table and picture are functions of the JSON alone."""
    written = run_study(study, tmp_path, seeds=(3,), quick=True, progress=False)
    data = json.loads(written["json"].read_text())
    assert study.markdown(data) == written["table"] == written["markdown"].read_text().rstrip("\n")
    for places in data["steps"].values():
        assert list(places) == ["fresh", "last"]
        assert list(places["fresh"]) == ["raw", "m = 1", "m = 2", "whole"]
        # one direction is one direction: for m = 1 the newest gradient of a run is a fresh one
        assert places["last"]["m = 1"] == places["fresh"]["m = 1"]
        assert places["fresh"]["m = 2"]["left"][0] < places["fresh"]["m = 1"]["left"][0] < 1.0
    assert list(data["runs"]["4-bit"]) == ["0", "1", "2"]
    assert "seeds 3" in written["table"] and written["picture"].stat().st_size > 10_000
    tables = [part.splitlines() for part in written["table"].split("\n\n") if part.startswith("|")]
    assert len(tables) == 3 and all(len({line.count("|") for line in table}) == 1 for table in tables)
