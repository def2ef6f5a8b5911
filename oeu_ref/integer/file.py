"""The file of an integer network: one .npz without pickle, whose every byte is checked before it is believed.

"header.npy" holds JSON: schema, value_bits, input, and for each node its name, op, inputs, attributes, numbers for
human readers, and shape and packing of its arrays. Each array is an entry "NODE.ARRAY.npy": weights packed by
`packing.pack_codes`, everything else as it is. `oeu_ref.integer.export.write` writes such files.
"""

import io
import json
import math
import pathlib
import zipfile

import numpy as np

from .. import boundary
from .network import INPUT, OPERATIONS, VALUE_TYPES, Input, IntegerNetwork, Node
from .packing import pack_codes, unpack_codes

SCHEMA = "oeu_ref integer network 1"
# what may be damaged shows as one of these, from zip, JSON, NumPy's headers or our own checks
_DAMAGE = (ValueError, TypeError, LookupError, EOFError, ArithmeticError, SyntaxError, RuntimeError, MemoryError)


def to_arrays(network):
    """Everything that an `IntegerNetwork` is, as a dict name -> array for `numpy.savez`: uint8 "header", and the rest.

    Weights take as few bits as their codes allow: {-1, +1} takes one, {-1, 0, 1} two.
    """
    header = {
        "schema": SCHEMA,
        "value_bits": network.value_bits,
        "input": {**vars(network.input), "shape": list(network.input.shape)},
        "nodes": [],
    }
    arrays = {}
    for node in network.nodes:
        described = {}
        for name, array in node.arrays.items():
            described[name] = {"shape": list(array.shape)}
            if name == "weight":
                bits, gap, low = _packing(array)
                described[name].update(bits=bits, gap=gap, low=low)
                array = pack_codes((array.astype(np.int16) - low) // gap, bits, signed=False)
            arrays[f"{node.name}.{name}"] = array
        attributes = {name: list(v) if isinstance(v, tuple) else v for name, v in node.attributes.items()}
        fields = {**vars(node), "inputs": list(node.inputs), "attributes": attributes, "arrays": described}
        header["nodes"].append(fields)
    text = json.dumps(header, allow_nan=False).encode()
    return {"header": np.frombuffer(text, np.uint8), **arrays}


def read(path):
    """The `IntegerNetwork` in a file.

    Raises ValueError, naming the file, if it is missing, truncated, garbled, of another schema, holds too many or too
    few arrays, arrays of other types or shapes than it says, or a network that does not fit together or could overflow.
    Nothing in the file is run, and no more memory is taken than the file is long.
    """
    try:
        return _network(_entries(path))
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read: {error.strerror or error}") from None
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} must be an {SCHEMA!r}: {reason}") from None


def _entries(path):
    """Name -> array, of a zip archive of .npy files."""
    with zipfile.ZipFile(path) as archive:
        infos, entries = archive.infolist(), {}
        # stored, not deflated, and in all no longer than the file: nothing in it can unfold into something larger
        total = sum(info.file_size for info in infos)
        if total > pathlib.Path(path).stat().st_size or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("its arrays must be stored uncompressed")
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in entries:
                raise ValueError(f"its entries must be .npy files with names of their own, got {info.filename!r}")
            entries[name] = _array(name, archive.read(info))
    return entries


def _array(name, content):
    """The array in the bytes of a .npy file.  NumPy's own reader would allocate whatever shape the header declares."""
    buffer = io.BytesIO(content)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError(f"array {name} must be of .npy format 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    rest = content[buffer.tell() :]
    if dtype.kind not in "iu" or fortran or len(rest) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"array {name} must hold integers in C order as its header says, got {dtype}, {shape}")
    return np.frombuffer(rest, dtype).reshape(shape)


def _network(entries):
    if "header" not in entries:
        raise ValueError("it has no header")
    header = json.loads(entries.pop("header").astype(np.uint8).tobytes().decode())
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"its header must be an object that names this schema, got {str(header)[:60]}")
    _keys("header", header, {"schema", "value_bits", "input", "nodes"})
    _keys("input", header["input"], set(Input.__dataclass_fields__))
    if header["value_bits"] not in VALUE_TYPES or not isinstance(header["nodes"], list):
        raise ValueError("value_bits must be 32 or 64, and nodes a list")
    raw = Input(**{**header["input"], "shape": tuple(header["input"]["shape"])})
    nodes = [_node(fields, header["value_bits"], entries) for fields in header["nodes"]]
    if entries:
        raise ValueError(f"it holds arrays that no node has: {', '.join(sorted(entries)[:5])}")
    return IntegerNetwork(nodes, raw, header["value_bits"])


def _node(fields, value_bits, entries):
    _keys("a node", fields, set(Node.__dataclass_fields__))
    name, op = fields["name"], fields["op"]
    if not isinstance(name, str) or op not in OPERATIONS or name == INPUT:
        raise ValueError(f"a node must have a name and an op of {', '.join(OPERATIONS)}, got {name!r} and {op!r}")
    if not all(isinstance(fields[part], dict) for part in ("attributes", "arrays", "about")):
        raise ValueError(f"attributes, arrays and about of node {name!r} must be objects")
    dtypes = {"weight": np.uint8, "offset": np.int64}
    arrays = {}
    for part, described in fields["arrays"].items():
        if (full := f"{name}.{part}") not in entries:
            raise ValueError(f"array {full} is missing")
        array, shape = entries.pop(full), tuple(described["shape"])
        if array.dtype != (dtype := np.dtype(dtypes.get(part, VALUE_TYPES[value_bits]))):
            raise ValueError(f"array {full} must have dtype {dtype}, got {array.dtype}")
        if part == "weight":
            array = _unpacked(full, array, shape, described)
        if array.shape != shape:
            raise ValueError(f"array {full} must have shape {shape}, got {array.shape}")
        arrays[part] = array
    attributes = {key: tuple(v) if isinstance(v, list) else v for key, v in fields["attributes"].items()}
    return Node(name, op, tuple(fields["inputs"]), attributes, arrays, fields["about"])


def _unpacked(name, packed, shape, described):
    if not all(isinstance(side, int) and 0 < side <= 8 * packed.size for side in shape):
        raise ValueError(f"array {name} must have whole sides, at most one a bit, got {shape}")
    gap, low = boundary.integer("gap", described["gap"], 1, 2), boundary.integer("low", described["low"], -128, 127)
    codes = unpack_codes(packed, described["bits"], shape, signed=False) * gap + low
    if codes.min() < -128 or codes.max() > 127:
        raise ValueError(f"array {name} must hold codes in [-128, 127], got {codes.min()} to {codes.max()}")
    return codes.astype(np.int8)


def _packing(codes):
    """(bits, gap, low): codes are low + gap * (0 to 2^bits - 1), with as few bits as they allow."""
    low, high = int(codes.min()), int(codes.max())
    gap = 2 if (low, high) == (-1, 1) and not (codes == 0).any() else 1
    return max(1, ((high - low) // gap).bit_length()), gap, low


def _keys(what, found, wanted):
    if not isinstance(found, dict) or set(found) != wanted:
        raise ValueError(
            f"{what} must have {sorted(wanted)}, got {sorted(found) if isinstance(found, dict) else found}"
        )
