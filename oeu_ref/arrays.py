"""Checks of arrays: each takes the argument's name, its value and a library, and returns the array, or raises.

library: numpy, whose arrays become float64 copies, or torch, whose tensors stay as they are. Arrays are known by what
they can do: nothing is imported here. The rules that name these checks, as data, are in `oeu_ref.boundary`.
"""

LEAST = {"N": (1, "samples"), "K": (2, "classes")}  # of an axis of that name: the least size, and of what


def array(name, value, library, wanted="a tensor"):
    """Return what NumPy makes an array of, or a dense tensor that holds numbers, as it is; raise for anything else."""
    if library.__name__ == "numpy":
        try:
            return library.asarray(value)
        except ValueError:
            found = f"a ragged {type(value).__name__}"
            raise TypeError(f"{name} must be an array, rows of one length, got {found}") from None
    if not isinstance(value, library.Tensor):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    if value.layout != library.strided:
        raise TypeError(f"{name} must be dense, got layout {value.layout}; convert with .to_dense()")
    if value.device.type == "meta":  # where tensors have a shape and nothing else
        raise ValueError(f"{name} must hold numbers, got a tensor on the device meta")
    return value


def samples(name, value, library):
    """Return an array that holds at least one sample, whatever a sample is; raise TypeError or ValueError otherwise."""
    if hasattr(value, "keys"):
        remedy = "stack its parts into one tensor, which a module around the model takes apart"
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}: {remedy}")
    values = array(name, value, library)
    if values.ndim < 1 or len(values) == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(values.shape)}")
    return values


def floats(name, value, library, *axes, check_finite=True, empty=True):
    """Return an array of floating point numbers, NumPy's as a float64 copy; raise TypeError or ValueError otherwise.

    axes: as in `shaped`, none for any shape; check_finite: False never waits for the device; empty: may there be none.
    """
    values = array(name, value, library)
    copied = library.__name__ == "numpy"
    if not (values.dtype.kind == "f" if copied else values.dtype.is_floating_point):
        convert = ".astype(float)" if copied else ".float()"
        raise TypeError(f"{name} must be floating point, got dtype {values.dtype}; convert with {convert}")
    if copied:
        values = values.astype(library.float64)
    if axes:
        shaped(name, values, *axes)
    if not empty and 0 in values.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(values.shape)}")
    return finite(name, values, library) if check_finite else values


def finite(name, values, library):
    """Return `values`; raise ValueError that names the first entry that is not finite.  Waits for the device."""
    ok = library.isfinite(values)
    if not ok.all():
        position = library.argwhere(~ok)[0].tolist()
        raise ValueError(f"{name} must be finite, got {values[tuple(position)].item()} at {position}")
    return values


def shaped(name, values, *axes):
    """Return `values` if they have a shape; raise ValueError otherwise.  axes: sizes, or letters for any, see LEAST."""
    shape = tuple(values.shape)
    fits = len(shape) == len(axes)
    for found, axis in zip(shape, axes):
        fits &= found >= LEAST[axis][0] if axis in LEAST else found == axis
    if not fits:
        wanted = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
        least = "".join(f", {a} >= {LEAST[a][0]} {LEAST[a][1]}" for a in axes if a in LEAST)
        raise ValueError(f"{name} must have shape {wanted}{least}, got {shape}")
    return values


def like(name, value, library, other, what):
    """Return `floats` of the shape of another array, called what; raise TypeError or ValueError otherwise."""
    return alike(name, floats(name, value, library), other, what)


def alike(name, values, other, what):
    """Return `values` if they have the shape of another array, called what; raise ValueError otherwise."""
    found, wanted = tuple(values.shape), tuple(other.shape)
    if found != wanted:
        raise ValueError(f"{name} must have the shape of {what}, {wanted}, got {found}")
    return values


def probabilities(name, value, library):
    """Return `floats` (N, K) whose rows are distributions, to 1e-3; raise TypeError or ValueError otherwise."""
    p = floats(name, value, library, "N", "K")
    sums = p.sum(axis=1)
    if p.min() < 0 or p.max() > 1 + 1e-3 or abs(sums - 1).max() > 1e-3:
        worst = int(abs(sums - 1).argmax())
        raise ValueError(
            f"{name} must be distributions: entries in [0, 1] and rows that sum to 1 (apply softmax to logits), "
            f"got entries from {p.min():g} to {p.max():g} and row {worst} with sum {sums[worst]:g}"
        )
    return p


def integers(name, value, library):
    """Return an array of integers of any shape; raise TypeError for any other."""
    values = array(name, value, library, "integers (a tensor of dtype int64)")
    if "int" not in getattr(values.dtype, "name", str(values.dtype)):
        raise TypeError(f"{name} must be integers, got dtype {values.dtype}")
    return values


def labels(name, value, library, rows=None, classes=None):
    """Return integers (N,) in [0, K), a label a sample, tensors as int64; raise TypeError or ValueError otherwise.

    rows: an array with as many rows, None for any number of labels; classes: K, None for the columns of rows.
    """
    values = integers(name, value, library)
    count, classes = "N" if rows is None else len(rows), classes or rows.shape[1]
    if values.ndim != 1 or rows is not None and len(values) != count:
        raise ValueError(f"{name} must have shape ({count},), one label a sample, got {tuple(values.shape)}")
    if len(values) and not (0 <= values.min() and values.max() < classes):
        raise ValueError(f"{name} must lie in [0, {classes}), got values from {values.min()} to {values.max()}")
    return values.long() if hasattr(values, "long") else values


def gradients(name, value, library, other=None, other_name=None, check_finite=True):
    """Return a list of at least one array of `floats`; raise TypeError or ValueError otherwise.

    other: such a list, called other_name, whose shapes it must have.
    """
    if not isinstance(value, (list, tuple)):
        wanted = "arrays" if library.__name__ == "numpy" else "tensors"
        raise TypeError(f"{name} must be a list of {wanted}, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must be a list of at least 1 array, got an empty one")
    if (n := len(value)) != (m := len(other or value)):
        raise ValueError(f"{other_name} and {name} must be lists of the same length, got {m} and {n}")
    values = [floats(f"{name}[{i}]", g, library, check_finite=check_finite) for i, g in enumerate(value)]
    for i, (a, b) in enumerate(zip(other or (), values)):
        alike(f"{name}[{i}]", b, a, f"{other_name}[{i}]")
    return values


def scores(name, value, library):
    """Return real numbers (N,), N >= 1, finite, as a float64 copy; raise TypeError or ValueError otherwise."""
    values = shaped(name, array(name, value, library), "N")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got dtype {values.dtype}")
    return finite(name, values.astype(library.float64), library)


def pair(name, value, library):
    """Return (probabilities, labels) of one set, checked; raise TypeError for no pair, and as they do."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        found = f"{len(value)} things" if isinstance(value, (tuple, list)) else type(value).__name__
        raise TypeError(f"{name} must be a pair (probabilities, labels), got {found}")
    p = probabilities(f"{name}[0]", value[0], library)
    return p, labels(f"{name}[1]", value[1], library, p)


def for_each(name, value, library, parameters):
    """Return a dict with an array for each parameter, of its shape; raise TypeError or ValueError otherwise."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    for key, parameter in parameters.items():
        if key not in value:
            raise ValueError(f"{name} must hold an array for each parameter, lacks {key}")
        entry = f"{name}[{key!r}]"
        alike(entry, array(entry, value[key], library), library.asarray(parameter), "its parameter")
    return value
