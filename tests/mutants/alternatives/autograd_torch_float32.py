"""Right, in single precision: `autograd_torch` with float32 tensors."""

import importlib.util
import pathlib

import torch

DTYPE = "float32"

_spec = importlib.util.spec_from_file_location("_float32_twin", pathlib.Path(__file__).parent / "autograd_torch.py")
_twin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_twin)
_twin.KIND = torch.float32

entropy_loss, kl_to_uniform = _twin.entropy_loss, _twin.kl_to_uniform
fake_quantize, fake_quantize_backward = _twin.fake_quantize, _twin.fake_quantize_backward
project, oeu_direction = _twin.project, _twin.oeu_direction
