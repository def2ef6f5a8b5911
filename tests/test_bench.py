"""The benchmark: that it measures what it says, and writes it down. Never how fast anything is."""

import copy
import functools
import json
import re

import numpy as np
import pytest
import torch

from oeu_ref.__main__ import main
from oeu_ref.bench import bench, machine, parts, peers, steps
from oeu_ref.core import OEU, fake_quantize, fake_quantize_backward
from oeu_ref.data.samples import Samples


@pytest.mark.reliability
def test_every_figure_is_measured_and_written_down(tmp_path, capsys):
    assert main(["bench", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    data = json.loads((tmp_path / "bench.json").read_text())
    assert (tmp_path / "bench.md").read_text().strip() in printed
    assert data["threads"] == torch.get_num_threads() and data["versions"]["torch"] == torch.__version__
    for found in data["rows"]:
        assert np.isfinite(found["value"]) and found["figure"] in printed
    assert set(data["scaling"]) == {"parameters", "layers", "classes"}
    assert (tmp_path / "bench_scaling.png").stat().st_size > 5000
    assert "figures mean nothing" in printed


def test_only_what_was_asked_for_is_measured(tmp_path):
    bench.bench(tmp_path, only=["reference"], quick=True, progress=False)
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 1
    assert not (tmp_path / "bench_scaling.png").exists()


def test_an_unknown_figure_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["bench", "--only", "step,magic", "--out", str(tmp_path)]) == 2
    assert re.fullmatch(r"oeu_ref bench: --only must be one of 'step', .+ got 'magic'\n", capsys.readouterr().err)


def test_a_row_is_the_median_of_ratios_taken_round_by_round():
    """The machine slowed down by ten in the second round: both are slower, and the ratio says nothing of it."""
    found = machine.row("x", [1.0, 20.0, 3.0], [1.0, 10.0, 1.0], goal=2.0)
    assert found["value"] == 2.0 and found["quartiles"] == [1.5, 2.5] and found["reached"]
    assert not machine.row("x", [3.0], [1.0], goal=2.0)["reached"]
    assert machine.row("x", [3.0], [1.0], goal=2.0, most=False)["reached"]
    assert machine.row("x", [3.0])["reached"] is None


def test_functions_are_called_by_turns_and_their_first_call_does_not_count():
    calls = []
    times = machine.Machine("cpu", quick=False).by_turns(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3)
    assert "".join(calls) == "abababab"
    assert [len(found) for found in times] == [3, 3]


def test_memory_counts_what_is_alive_at_the_worst_moment():
    """a (4 kB) is there before; b and c (4 kB each) live together; in-place work and views are not new."""
    a = torch.ones(1000)

    def work():
        b = a + 1
        c = b.view(10, 100) * 2
        c.mul_(2), a.add_(0)
        del b, c
        return a * 3

    assert steps._peak_memory(machine.Machine("cpu", quick=True), work) == 8000


def test_the_six_lines_are_a_step_of_oeu_with_a_tensor_a_layer_so_that_they_are_a_fair_opponent():
    """Both take a float64 network to the same weights, where no gradient is zero or of one element."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    batches = [Samples(torch.randn(8, 6).double(), torch.randint(0, 3, (8,))) for _ in range(2)]
    found = []
    for make in (steps._six_lines, functools.partial(steps._step, kind=functools.partial(OEU, layer="tensor"))):
        twin = copy.deepcopy(model)
        make(twin, torch.optim.SGD(twin.parameters(), 0.5, momentum=0.9), *batches)()
        found.append(torch.nn.utils.parameters_to_vector(twin.parameters()))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    assert (found[0] - torch.nn.utils.parameters_to_vector(model.parameters())).abs().min() > 1e-6


def test_the_usual_surgery_is_right_so_that_it_is_a_fair_opponent():
    forget, retain = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 0.0])]
    (found,) = parts._surgery(forget, retain)
    torch.testing.assert_close(found, torch.tensor([0.0, 4.0]))


def test_textbook_lsq_is_our_quantizer_so_that_it_is_a_fair_opponent():
    """The same values and both gradients, in float64, inside the range, at its ends and beyond them."""
    x = torch.linspace(-1, 3, 401, dtype=torch.float64).requires_grad_()
    step = torch.tensor(0.1300000001, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(401, generator=torch.Generator().manual_seed(0)).double()
    x_hat = peers._textbook(0.25, 0, 15)(x, step)
    found = torch.autograd.grad(x_hat, (x, step), cotangent)
    ours = fake_quantize_backward(cotangent, x.detach(), step.detach(), 0, 15, 0.25)
    torch.testing.assert_close(x_hat, fake_quantize(x.detach(), step.detach(), 0, 15), rtol=0, atol=1e-12)
    for theirs, mine in zip(found, ours):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-12)


def test_peers_that_are_not_installed_have_no_row(tmp_path, monkeypatch):
    def missing(*arguments):
        raise ImportError("no such package")

    monkeypatch.setattr(peers, "QUANTIZERS", {peers.TEXTBOOK: peers._textbook, "torchao": missing})
    monkeypatch.setattr(peers, "STEPS", {"torchjd": missing})
    bench.bench(tmp_path, only=[], quick=True, progress=False, peers=True)
    (found,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert found["figure"].startswith("fake quantizer ÷ textbook LSQ") and found["goal"] is None


@pytest.mark.peers
@pytest.mark.parametrize("name", peers.QUANTIZERS)
def test_a_peers_fake_quantizer_is_given_what_ours_is(name):
    """The same values, and the same gradient of x inside the range: it is timed at the same work."""
    x = torch.linspace(-1, 3, 401).requires_grad_()
    step = torch.tensor(0.1300001, requires_grad=True)
    found = _or_skip(peers.QUANTIZERS[name], 1.0, 0, 15)(x, step)
    torch.testing.assert_close(found, fake_quantize(x, step, 0, 15), rtol=0, atol=1e-5)
    slope, of_step = torch.autograd.grad(found.sum(), (x, step))
    inside = (x > 0.1) & (x < 1.8)  # at the end codes some differ
    assert (slope[inside] == 1).all() and of_step.isfinite()


@pytest.mark.peers
@pytest.mark.parametrize("name", peers.STEPS)
def test_a_peers_step_is_of_both_losses(name):
    """Where they are not in conflict PCGrad's direction is a multiple of the sum of both gradients."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    forget, retain = (Samples(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(2))
    g_f, g_r = (torch.autograd.grad(loss, model.weight)[0] for loss in peers._losses(model, forget, retain))
    assert (g_f * g_r).sum() >= 0 and torch.cosine_similarity(g_r.flatten(), (g_f + g_r).flatten(), dim=0) < 0.99
    before = model.weight.detach().clone()
    _or_skip(peers.STEPS[name], model, torch.optim.SGD(model.parameters(), 1e-2), forget, retain)()
    moved = (before - model.weight).detach().flatten()
    assert torch.cosine_similarity(moved, (g_f + g_r).flatten(), dim=0) > 0.999


def _or_skip(make, *arguments):
    try:
        return make(*arguments)
    except ImportError as error:
        pytest.skip(str(error))
