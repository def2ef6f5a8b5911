"""BatchNorm's statistics estimated anew: what they become, and what stays."""

import copy

import pytest
import torch
from torch import nn

from oeu_ref.core import Quantizer, QuantMLP
from oeu_ref.passes import recalibrate_batchnorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=0.3), nn.ReLU(), nn.Linear(5, 3))


def test_statistics_become_the_averages_over_the_batches():
    """Mean and unbiased variance of the layer's inputs, averaged over batches of equal size."""
    model, inputs = network(), torch.randn(12, 6)
    model(100 + inputs)  # what the statistics held before leaves no trace
    recalibrate_batchnorm(model, inputs, batch_size=5)
    parts = [model[0](part) for part in inputs.split(4)]
    torch.testing.assert_close(model[1].running_mean, torch.stack([p.mean(0) for p in parts]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([p.var(0) for p in parts]).mean(0))


def test_everything_else_stays():
    """Weights, each module's mode, momentum, quantizers; a layer without running statistics; returns the model."""
    model = QuantMLP((6, 8, 7, 3), batch_norm=True)
    model(torch.rand(9, 6))
    model.norms[1] = nn.BatchNorm1d(7, track_running_stats=False)
    model.eval()
    model.norms[0].train()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    assert recalibrate_batchnorm(model, torch.rand(20, 6), batch_size=5) is model
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"norms.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert [m.training for m in model.modules()] == modes and model.norms[0].momentum == 0.1


def frozen(how):
    """A network in train mode with two layers of statistics, the first of which its owner froze."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4))
    for norm in (model[1], model[4]):
        norm.running_mean.normal_(), norm.running_var.uniform_(1, 2)
    if how == "in eval mode":
        model[1].eval()
    else:
        model[1].track_running_stats = False
    return model


@pytest.mark.parametrize("how", ["in eval mode", "tracking switched off"])
def test_frozen_statistics_stay_and_those_behind_them_are_of_the_frozen_network(how):
    """A layer that a step of unlearning would not touch is not touched here either."""
    model, inputs = frozen(how), torch.randn(12, 6)
    before = copy.deepcopy(model[1].state_dict())
    recalibrate_batchnorm(model, inputs)
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    torch.testing.assert_close(model[4].running_mean, model[:4](inputs).mean(0))


def test_of_a_network_in_eval_mode_no_layer_is_frozen():
    """The control: as a whole in eval mode, as training leaves it, it is estimated anew as a whole."""
    model, inputs = frozen("in eval mode").eval(), torch.randn(12, 6)
    recalibrate_batchnorm(model, inputs)
    torch.testing.assert_close(model[1].running_mean, model[0](inputs).mean(0))
    assert not any(m.training for m in model.modules())


def test_other_layers_with_a_state_keep_it_and_instance_norm_is_estimated_too():
    """The power iteration of spectral_norm and a quantizer without a step stay; averages are plain for InstanceNorm."""
    torch.manual_seed(0)
    convolution = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 1))
    model = nn.Sequential(convolution, nn.InstanceNorm2d(3, track_running_stats=True, momentum=0.3), Quantizer(4))
    model(100 + torch.randn(2, 2, 4, 4))
    model[2].reset()
    inputs = torch.randn(6, 2, 4, 4)
    before, seen = copy.deepcopy(model.state_dict()), []
    handle = model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].mean((0, 2, 3))))
    recalibrate_batchnorm(model, inputs, batch_size=2)
    handle.remove()
    torch.testing.assert_close(model[1].running_mean, torch.stack(seen).mean(0))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["1.running_mean", "1.running_var"] and model[1].momentum == 0.3


def test_what_fails_half_way_has_changed_nothing():
    """A model that cannot take the inputs keeps its statistics and momenta."""
    model = network()
    model(torch.randn(8, 6))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(model, torch.randn(8, 7))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.3


def test_a_lagging_network_predicts_as_in_training_again():
    """After its first layer moved, eval mode is far from train mode; recalibrated, it is near."""
    model, inputs = network(), torch.randn(400, 6)
    for _ in range(50):
        model(inputs)
    with torch.no_grad():
        model[0].weight.mul_(3), model[0].bias.add_(2)
    gaps = []
    for _ in range(2):
        with torch.no_grad():
            gaps.append((copy.deepcopy(model).train()(inputs) - model.eval()(inputs)).abs().max().item())
        recalibrate_batchnorm(model, inputs, batch_size=400)
    assert gaps[1] < 0.01 < 0.5 < gaps[0]


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        recalibrate_batchnorm("resnet18", torch.rand(2, 6))
    with pytest.raises(ValueError, match="retain_inputs must hold at least one sample"):
        recalibrate_batchnorm(network(), torch.rand(0, 6))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        recalibrate_batchnorm(network(), torch.rand(2, 6), 0)
