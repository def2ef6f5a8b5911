"""Batched augmentation, the classifier that takes raw images, the standard networks, and any classifier quantized."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from oeu_ref.core.network import QuantConv2d, QuantLinear, quantize_model
from oeu_ref.data.samples import stream
from oeu_ref.lab import images as images_module
from oeu_ref.lab.images import ImageClassifier, augment, channel_statistics
from oeu_ref.lab.models import mobilenet_v2, resnet18
from oeu_ref.lab.training import build


def raw(count, side=8, seed=0):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=stream(seed, "raw"))


def windows(image, padding):
    """Every image that augmentation may make of one: {(down, right, mirrored): bytes}."""
    side = image.shape[-1]
    padded = nn.functional.pad(image, (padding,) * 4)
    found = {}
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            window = padded[:, down : down + side, right : right + side]
            found[down, right, False] = window.numpy().tobytes()
            found[down, right, True] = window.flip(-1).numpy().tobytes()
    return found


def test_augmented_images_are_windows_of_the_padded_image_and_all_are_equally_likely():
    """8,100 draws over 3 x 3 places and 2 directions: 450 expected of each, five standard deviations allowed."""
    image = raw(1)[0]
    which = {content: key for key, content in windows(image, 1).items()}
    assert len(which) == 18
    out = augment(image.expand(8100, -1, -1, -1), stream(0, "augment"), padding=1)
    assert out.dtype == torch.uint8 and out.shape == (8100, 3, 8, 8)
    keys = [which[one.contiguous().numpy().tobytes()] for one in out]
    counts = np.array([keys.count(key) for key in which.values()])
    assert (abs(counts - 450) < 5 * (8100 * (1 / 18) * (17 / 18)) ** 0.5).all()


def test_each_image_of_a_batch_is_augmented_by_itself():
    batch = raw(6)
    out = augment(batch, stream(1, "augment"), padding=2)
    keys = []
    for image, made in zip(batch, out):
        which = {content: key for key, content in windows(image, 2).items()}
        keys.append(which[made.contiguous().numpy().tobytes()])
    assert len(set(keys)) > 1


@pytest.mark.parametrize(
    "network, last", [(resnet18(10, 4), False), (resnet18(10, 16), True), (mobilenet_v2(10), True)]
)
def test_narrow_networks_are_not_channels_last(network, last):
    """oneDNN's gradient of a 1 x 1 kernel with a stride overruns memory there: on CPUs without AVX-512 it crashed."""
    classifier = ImageClassifier(network, (0.5,) * 3, (0.2,) * 3)
    seen = []
    classifier.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    functional.cross_entropy(classifier(raw(4, 32)), torch.arange(4)).backward()
    layout = torch.channels_last if last else torch.contiguous_format
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(t.is_contiguous(memory_format=layout) for t in (*seen, weights[1]))


def test_augmentation_is_a_function_of_the_generator_and_leaves_its_input_alone():
    batch = raw(5)
    before = batch.clone()
    assert torch.equal(augment(batch, stream(3, "a")), augment(batch, stream(3, "a")))
    assert torch.equal(batch, before)


def test_augmentation_refuses_what_are_no_images():
    with pytest.raises(ValueError, match="images must have shape"):
        augment(torch.zeros(3, 8, 8), stream(0, "a"))
    with pytest.raises(ValueError, match="padding"):
        augment(raw(1), stream(0, "a"), padding=-1)


def test_channel_statistics_are_those_of_numpy():
    batch = raw(7)
    mean, std = channel_statistics(batch)
    expected = batch.double().numpy() / 255
    assert np.allclose(mean, expected.mean(axis=(0, 2, 3)), atol=1e-6)
    assert np.allclose(std, expected.std(axis=(0, 2, 3)), atol=1e-6)


def test_a_channel_without_contrast_is_not_blown_up():
    _, std = channel_statistics(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert std.tolist() == pytest.approx([1 / 255] * 3)


def tiny_network():
    return build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), 0)


def test_the_classifier_normalizes_raw_images():
    network, batch = tiny_network(), raw(5)
    mean, std = channel_statistics(batch)
    expected = network((batch.float() / 255 - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(ImageClassifier(network, mean, std)(batch), expected, atol=1e-6)


def test_the_classifier_refuses_images_that_were_normalized_already():
    model = ImageClassifier(tiny_network(), [0.5] * 3, [0.2] * 3)
    with pytest.raises(TypeError, match="images must have dtype uint8"):
        model(raw(2).float())
    with pytest.raises(ValueError, match="std"):
        ImageClassifier(tiny_network(), [0.5] * 3, [0.2, 0.0, 0.2])
    with pytest.raises(ValueError, match="precision must be one of"):
        ImageClassifier(tiny_network(), [0.5] * 3, [0.2] * 3, precision="half")


def test_bfloat16_keeps_float32_logits_and_gradients_and_is_close():
    network, batch = tiny_network(), raw(5)
    exact = ImageClassifier(network, [0.5] * 3, [0.2] * 3)(batch)
    model = ImageClassifier(network, [0.5] * 3, [0.2] * 3, precision="bfloat16")
    logits = model(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    assert torch.allclose(logits, exact, atol=0.05 * exact.abs().max().item())
    logits.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


def test_a_failing_compiler_is_a_warning_and_the_network_runs(monkeypatch):
    def broken(network, dynamic):
        def run(x):
            raise RuntimeError("no compiler here")

        return run

    monkeypatch.setattr(images_module.torch, "compile", broken)
    network, batch = tiny_network(), raw(5)
    model = ImageClassifier(network, [0.5] * 3, [0.2] * 3, compiled=True)
    with pytest.warns(UserWarning, match="torch.compile failed, the network runs uncompiled: no compiler here"):
        first = model(batch)
    assert torch.equal(first, ImageClassifier(network, [0.5] * 3, [0.2] * 3)(batch))
    assert torch.equal(model(batch), first)


def test_an_error_of_the_network_itself_is_no_compiler_failure(monkeypatch):
    monkeypatch.setattr(images_module.torch, "compile", lambda network, dynamic: lambda x: network(x))
    model = ImageClassifier(nn.Linear(2, 2), [0.5] * 3, [0.2] * 3, compiled=True)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError):
        model(raw(2))


def test_a_quantizer_sees_its_first_batch_before_anything_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(images_module.torch, "compile", lambda network, dynamic: compiled.append(1) or network)
    model = ImageClassifier(quantize_model(tiny_network()), [0.5] * 3, [0.2] * 3, compiled=True)
    model(raw(4))
    assert not compiled
    model(raw(4))
    assert compiled


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_gradients_are_those_of_the_network_as_it_is(monkeypatch, precision):
    """Of every parameter, weights, BatchNorm and steps: a compiler that loses one trains a network that stays bad."""
    compiler = torch.compile
    monkeypatch.setattr(
        images_module.torch, "compile", lambda network, dynamic: compiler(network, dynamic=dynamic, backend="aot_eager")
    )
    conv, relu, *rest = tiny_network()
    network = quantize_model(nn.Sequential(conv, nn.BatchNorm2d(4), relu, *rest))
    plain, batch = ImageClassifier(network, [0.5] * 3, [0.2] * 3, precision), raw(6)
    plain(batch)  # the quantizers see their first batch
    compiled = copy.deepcopy(plain)
    compiled.compiled = True
    grads = []
    for model in (plain, compiled):
        loss = nn.functional.cross_entropy(model(batch), torch.arange(6) % 3)
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    assert compiled._fast is not None
    for (name, _), ours, theirs in zip(plain.named_parameters(), *grads):
        assert ours.abs().max() > 0 or "bias" in name, name
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6, msg=name)


def test_measuring_is_never_compiled(monkeypatch):
    """Its batches have many sizes: in eval mode, or without gradients, the network runs as it is."""
    compiled = []
    monkeypatch.setattr(images_module.torch, "compile", lambda network, dynamic: compiled.append(1) or network)
    model = ImageClassifier(tiny_network(), [0.5] * 3, [0.2] * 3, compiled=True)
    with torch.no_grad():
        model(raw(4))
    model.eval()(raw(4))
    assert not compiled
    model.train()(raw(4))
    assert compiled


def test_compiled_code_serves_every_network_of_a_width():
    """All are of one class, whose code is compiled once for each size of a batch."""
    assert type(resnet18(10, 4)) is type(resnet18(3, 4))
    with torch.no_grad():
        assert resnet18(10, 4)(torch.rand(2, 3, 8, 8)).shape == (2, 10) != resnet18(3, 8)(torch.rand(2, 3, 8, 8)).shape


def test_a_copy_of_a_compiled_classifier_has_weights_of_its_own(monkeypatch):
    monkeypatch.setattr(images_module.torch, "compile", lambda network, dynamic: lambda x: network(x))
    model, batch = ImageClassifier(tiny_network(), [0.5] * 3, [0.2] * 3, compiled=True), raw(3)
    before = model(batch)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(batch).abs().max() == 0
    assert torch.equal(model(batch), before)


def test_resnet18_is_torchvisions_but_for_the_stem():
    """With torchvision's weights put in, everything behind the stem gives torchvision's logits, bit for bit."""
    ours, theirs = resnet18(10).eval(), torchvision.models.resnet18(num_classes=10).eval()
    stem = {name: value for name, value in ours.state_dict().items() if name.startswith(("conv1", "bn1"))}
    assert {name: v.shape for name, v in ours.state_dict().items() if name not in stem} == {
        name: v.shape for name, v in theirs.state_dict().items() if name not in stem
    }
    ours.load_state_dict({**theirs.state_dict(), **stem})
    theirs.conv1, theirs.bn1, theirs.maxpool = ours.conv1, ours.bn1, nn.Identity()
    x = torch.rand(2, 3, 32, 32, generator=stream(0, "x"))
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    "make, width, stride, sides, channels",
    [
        (resnet18, 64, 1, 32, 512),
        (resnet18, 16, 2, 16, 128),
        (mobilenet_v2, 32, 1, 32, 1280),
        (mobilenet_v2, 16, 2, 16, 1280),
    ],
)
def test_standard_networks_have_the_sizes_asked_for(make, width, stride, sides, channels):
    network = make(7, width, stride).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert convolution.out_channels == width
    assert convolution(torch.zeros(1, 3, 32, 32)).shape[-1] == sides
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    assert last.in_features == channels


def test_mobilenet_v2_halves_a_small_image_three_times():
    """32 x 32 pixels end as 4 x 4: torchvision's own would leave 1 x 1."""
    assert mobilenet_v2(10).features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (4, 4)


def test_standard_networks_draw_nothing_in_training():
    """No dropout: a step in train mode leaves PyTorch's global generator alone."""
    for make in (resnet18, mobilenet_v2):
        network = make(10, 8).train()
        before = torch.get_rng_state()
        network(torch.rand(2, 3, 32, 32, generator=stream(0, "x")))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arguments, name", [((1,), "num_classes"), ((10, 0), "width"), ((10, 8, 3), "stem_stride")])
def test_standard_networks_refuse_sizes_out_of_range(arguments, name):
    for make in (resnet18, mobilenet_v2):
        with pytest.raises(ValueError, match=name):
            make(*arguments)


CLASSIFIERS = {
    "resnet18": {},
    "mobilenet_v3_small": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "regnet_y_400mf": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "mnasnet0_5": {},
    "swin_t": {},
}


# three here, the others with -m reliability
FIRST = ("resnet18", "mobilenet_v3_small", "squeezenet1_1")
NAMES = [pytest.param(name, marks=() if name in FIRST else pytest.mark.reliability) for name in CLASSIFIERS]


@pytest.mark.parametrize("name", NAMES)
def test_any_torchvision_classifier_can_be_quantized(name):
    """Every Conv2d and Linear is replaced, both ends have 8 bits, and nothing else is lost on the way, shortcuts or
    biases: once the quantizers are taken out the logits are the float network's, bit for bit."""
    network = build(lambda: torchvision.models.get_model(name, num_classes=5, **CLASSIFIERS[name]), 0).eval()
    # as large as squeezenet's pooling needs; more only costs time
    x = torch.rand(2, 3, 64, 64, generator=stream(0, "x"))
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(quantize_model(network, 32, 32)(x), expected)
        quantized = quantize_model(network, 4, 4)
        layers = [m for m in quantized.modules() if isinstance(m, (QuantConv2d, QuantLinear))]
        assert len(layers) == sum(type(m) in (nn.Conv2d, nn.Linear) for m in network.modules())
        assert [layer.weight_quantizer.bits for layer in layers] == [8] + [4] * (len(layers) - 2) + [8]
        assert quantized(x).isfinite().all()
        for layer in layers:
            layer.weight_quantizer = layer.activation_quantizer = None
        assert torch.equal(quantized(x), expected)
