"""A kept image model as the file of an integer network, checked before anybody relies on it."""

from pathlib import Path

import torch

from ..integer import file as integer_file
from ..integer.agreement import compare
from ..integer.export import export, write
from .cells import load_model
from .checkpoints import read

CHECKED_IMAGES = 8
# sides of the images of the data sets that are not 32 x 32 pixels
SIDES = {"tinyimagenet": 64}


def export_file(model_path, out_path, image_size=None, value_bits=64):
    """Write the integer network of a model that a cell kept, read it back, and compare it with PyTorch's forward.

    model_path: a `.pt` file of an output folder; out_path: the `.npz` to write; image_size: side of the images in
    pixels, None: that of the experiment; value_bits: 64 or 32, as in `oeu_ref.integer.export.export`.
    Returns a short text: what was written, its size beside that of the float32 weights, and how it agrees on random
    images.  Raises ValueError, naming the file or the layer, for what cannot be read or exported; OSError where
    out_path cannot be written.
    """
    model, experiment = load_model(model_path), read(model_path)["identity"]["experiment"]
    side = image_size or experiment["image_size"] or SIDES.get(experiment["dataset"], 32)
    return export_network(model, (len(model.mean), side, side), out_path, value_bits)


def export_network(model, shape, out_path, value_bits=64, input_scale=None):
    """As `export_file`, of a network at hand; shape: (C, H, W) of its images; input_scale: as in `export`."""
    network = export(model, shape, input_scale=input_scale, value_bits=value_bits)
    path = write(Path(out_path), network)
    images = torch.randint(0, 256, (CHECKED_IMAGES, *network.input.shape), generator=torch.Generator().manual_seed(0))
    agreement = compare(model, integer_file.read(path), images.to(torch.uint8))
    layers = [node for node in network.nodes if "weight" in node.arrays]
    weights = sum(node.arrays["weight"].size for node in layers)
    size, floats = path.stat().st_size, float_bytes(model)
    return (
        f"{len(layers)} quantized layers, {weights:,} weight codes, {shape[1]} x {shape[2]} pixels, "
        f"{value_bits}-bit values\n"
        f"{size:,} bytes, {floats / size:.1f} times smaller than float32 ({floats:,} bytes)\n"
        f"beside PyTorch in float64, on {CHECKED_IMAGES} random images: {agreement}\n"
        f"{path}"
    )


def float_bytes(model):
    """Bytes of a model's parameters and BatchNorm statistics in float32."""
    statistics = [buffer for name, buffer in model.named_buffers() if "running" in name]
    return 4 * sum(tensor.numel() for tensor in [*model.parameters(), *statistics])
