"""Integer codes in as few bits as they need: what a file of an integer network holds in place of weights."""

import math

import numpy as np

from ..boundary import FLAG, Integers, Width, taking
from ..reference.quantizer import integer_range

takes = taking(np)


@takes(codes=Integers(), bits=Width(), signed=FLAG)
def pack_codes(codes, bits, signed=True):
    """Pack integer codes into bytes, `bits` bits a code, most significant bit first.

    codes: integers of any shape in the range of `integer_range(bits, signed)`. A ternary code takes 2 bits (5 of them
    would fit into a byte in base 3, but a device would have to divide to read them), a binary one 1 bit.
    Returns uint8 (ceil(size * bits / 8),); a code is stored as code - Qn, binary signs as 0 and 1, and the last byte is
    filled with zeros.
    Raises TypeError for codes that are not integers, ValueError for a code outside the range or a binary 0.
    """
    q_min, q_max = integer_range(bits, signed)
    if codes.size and not (q_min <= codes.min() and codes.max() <= q_max):
        raise ValueError(f"codes must lie in [{q_min}, {q_max}] for {bits} bits, got {codes.min()} to {codes.max()}")
    stored_bits, distance = _stored(bits, signed)
    octets = (codes.reshape(-1, 1) - q_min).astype(np.uint8)
    if (octets % distance).any():
        raise ValueError("codes must be -1 or 1 for binary weights, got 0")
    return np.packbits(np.unpackbits(octets // distance, axis=1)[:, 8 - stored_bits :])


@takes(packed=Integers(), bits=Width(), signed=FLAG)
def unpack_codes(packed, bits, shape, signed=True):
    """Inverse of `pack_codes`.

    packed: uint8 (ceil(size * bits / 8),) for size = prod(shape).  Returns int16 of that shape.
    Raises TypeError for another dtype, ValueError for another length or, ternary, for a code that there is not.
    """
    q_min, q_max = integer_range(bits, signed)
    stored_bits, distance = _stored(bits, signed)
    size = math.prod(shape)
    if packed.dtype != np.uint8:
        raise TypeError(f"packed must be uint8, got dtype {packed.dtype}")
    length = -(-size * stored_bits // 8)
    if packed.shape != (length,):
        raise ValueError(f"packed must hold {length} bytes for shape {shape}, got {packed.shape}")
    low_bits = np.unpackbits(packed)[: size * stored_bits].reshape(size, stored_bits)
    octets = np.packbits(np.pad(low_bits, ((0, 0), (8 - stored_bits, 0))), axis=1)
    codes = distance * octets.astype(np.int16) + q_min
    if codes.size and codes.max() > q_max:
        raise ValueError(f"packed must hold codes in [{q_min}, {q_max}], got {codes.max()}")
    return codes.reshape(shape)


def _stored(bits, signed):
    """(bits that a code takes in storage, distance between neighbouring codes)."""
    stored_bits = {"binary": 1, "ternary": 2}.get(bits, bits)
    return stored_bits, 2 if bits == "binary" and signed else 1
