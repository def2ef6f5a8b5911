"""Images as uint8 tensors on the device: augmentation of whole batches, and the classifier that takes them raw."""

import warnings

import torch
from torch import nn

from .. import boundary
from ..core.quantizer import Quantizer
from .options import PRECISIONS


def augment(images, generator, padding=4):
    """Shift each image at random and mirror half of them: the usual augmentation of CIFAR, a batch at a time.

    images: (N, C, H, W), any dtype and device; generator: a CPU `torch.Generator`, so that the draws are the same for
    every device; padding: the largest shift, in pixels, in each direction, 0 to the larger side of the images.
    Returns (N, C, H, W), a new tensor: each image is padded with zeros (black, for raw uint8 images), a window of its
    size is cut out at a random place, and with probability 1/2 mirrored left to right.
    Raises TypeError for no tensor or no generator, ValueError for another rank, TypeError or ValueError for a padding
    out of range.
    Source: He et al., "Deep Residual Learning", CVPR 2016, section 4.2.
    """
    if boundary.instance("images", images, torch.Tensor, "tensor").ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    boundary.instance("generator", generator, torch.Generator, "torch.Generator")
    padding = boundary.integer("padding", padding, 0, max(images.shape[2:]))
    n, _, height, width = images.shape
    down, right = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator, device="cpu")
    mirrored = torch.rand(n, 1, generator=generator, device="cpu") < 0.5
    down_all, along = torch.arange(height, device="cpu"), torch.arange(width, device="cpu")
    rows, columns = down + down_all, right + torch.where(mirrored, along.flip(0), along)
    padded = nn.functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    rows, columns = rows.to(images.device, non_blocking=True), columns.to(images.device, non_blocking=True)
    chosen = padded[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)


def channel_statistics(images):
    """Mean and standard deviation of each channel, for the classifier's normalization.

    images: (N, C, H, W) uint8, not empty.  Returns (mean, std), each (C,) float32 in [0, 1], std >= 1/255: a channel
    without any contrast must not be blown up.  Raises TypeError or ValueError for anything else.
    """
    _raw_images(images)
    # a histogram holds the exact sums, and no float copy of the whole data set is made
    values = torch.arange(256, dtype=torch.float64, device="cpu") / 255
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
    shares = counts.cpu().double() / counts[0].sum().item()
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp_min(0).sqrt()
    return mean.float(), std.clamp_min(1 / 255).float()


class ImageClassifier(nn.Module):
    """A network with everything that stands between raw images and its logits, so that nobody can forget it.

    network: maps normalized images (N, C, H, W) float to logits (N, K); mean, std: (C,), as `channel_statistics` gives
    them; precision: "float32", or "bfloat16" for autocast (weights, gradients and logits stay float32); compiled: run
    the network through `torch.compile`; if that fails a warning says why, and the network runs as it is.
    forward: (N, C, H, W) uint8 -> (N, K) float32.  Memory format is channels-last, but for narrow 1 x 1 kernels.
    Raises TypeError for no module or statistics that are no numbers, ValueError for statistics of another shape or not
    finite, std <= 0, or an unknown precision; TypeError for images that are not uint8.
    """

    def __init__(self, network, mean, std, precision="float32", compiled=False):
        super().__init__()
        boundary.instance("network", network, nn.Module, "torch.nn.Module")
        mean, std = (_statistics(name, value) for name, value in (("mean", mean), ("std", std)))
        if mean.ndim != 1 or mean.shape != std.shape or not (std > 0).all():
            raise ValueError(f"mean and std must have one shape (C,), std above 0, got {mean.tolist()}, {std.tolist()}")
        self.precision = boundary.one_of("precision", precision, PRECISIONS)
        # whose gradient overruns memory where a CPU's vector has more numbers than channels (oneDNN's issue 6035)
        pointwise = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
        self.layout = torch.contiguous_format if any(m.in_channels < 16 for m in pointwise) else torch.channels_last
        self.network = network.to(memory_format=self.layout)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])
        self.compiled, self._fast = bool(compiled), None

    def forward(self, images):
        _raw_images(images)
        x = ((images.to(self.mean.dtype) / 255 - self.mean) / self.std).contiguous(memory_format=self.layout)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._network()(x).float()

    def _network(self):
        if not (self.compiled and self.training and torch.is_grad_enabled()):
            return self.network  # outside of training batches have many sizes, and each would be compiled
        if self._fast is None:
            # a quantizer that still has to see its first batch decides by the data, which compiled code cannot
            if any(isinstance(m, Quantizer) and m.unread for m in self.network.modules()):
                return self.network
            self._fast = _compiled(self.network)
        return self._fast

    def __getstate__(self):
        # compiled code refers to these very weights: a copy compiles its own
        return {**self.__dict__, "_fast": None}


def _compiled(network):
    """The network through `torch.compile`, or as it is from the first call on that the compiler fails."""
    # for each size of a batch its own code: there are two or three in a run, and code for all sizes is slower
    state = {"run": torch.compile(network, dynamic=False)}

    def run(x):
        try:
            return state["run"](x)
        except Exception as error:
            if state["run"] is network:
                raise
            warnings.warn(f"torch.compile failed, the network runs uncompiled: {str(error)[:200]}", stacklevel=2)
            state["run"] = network
            return network(x)

    return run


def _statistics(name, values):
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be numbers, one a channel, got {type(values).__name__}") from None
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got {tensor.tolist()}")
    return tensor


def _raw_images(images):
    boundary.instance("images", images, torch.Tensor, "tensor")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must have dtype uint8, 0 to 255, got {images.dtype}")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape (N, C, H, W), N >= 1, got {tuple(images.shape)}")
