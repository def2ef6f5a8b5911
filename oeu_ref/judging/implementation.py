"""An implementation under test: any module or object with some of the contract's functions, NumPy in and out."""

import copy
import importlib
import importlib.util
import numbers
import pathlib
import sys

import numpy as np

from .. import boundary
from ..contract import DECLARATIONS, EVERY, OPTIONS, SIGNATURES, STEP


class LoadError(ValueError):
    """What was named as an implementation cannot be used as one; the message says why and what would be right."""


class Absent(NotImplementedError):
    """An implementation lacks a result that a law is about; the message says which."""


class Violation(AssertionError):
    """An implementation breaks a law, or its contract; the message says how, with figures."""


class Imprecise(Violation):
    """A result is off by less than rounding of its largest entries, though by more than that of its own."""


class Malformed(Violation):
    """A result is of another type, shape or precision than the contract says, whatever its values are."""


class Implementation:
    """An implementation of the contract, wrapped so that every call is checked for form.

    target: module or object with at least one of the functions of `SIGNATURES` or a class `OEU` (or that class itself);
    its optional DTYPE ("float64" or "float32") sets the tolerances, the other `DECLARATIONS`
    what it is judged by; name: for reports.
    The contract's functions are methods here: they hand over copies of their arrays, in the declared dtype, and raise
    `Violation` for a result of another type, shape or precision than the contract says.
    Raises LoadError for a target without any of the functions or with an unknown declaration.
    """

    def __init__(self, target, name=None):
        self.target = target
        self.name = name or getattr(target, "__name__", type(target).__name__)
        self.declared = {name: self._declared(name, *rule) for name, rule in DECLARATIONS.items()}
        self.dtype = np.dtype(self.declared["DTYPE"])
        if not any(self.has(operation) for operation in (*EVERY, STEP)):
            raise LoadError(
                f"{self.name} must define at least one of {', '.join(SIGNATURES)} or a class {STEP}, found none: "
                "`python -m oeu_ref template` prints a file to start from"
            )

    def declaring(self, watch=None, **conventions):
        """The same implementation, as if it declared these conventions; watch: see the method, None: as before."""
        other = copy.copy(self)
        other.declared, other.watch = {**self.declared, **conventions}, watch or self.watch
        return other

    @property
    def takes_all_options(self):
        """Whether nothing is declared that restricts alpha, granularity or rescale."""
        return all(self.declared[name] == DECLARATIONS[name][0] for name in OPTIONS.values())

    def watch(self, operation, args, options):
        """Called with every call of the target's functions, before it: for who wants to look on."""

    def alphas(self, *more):
        """Strengths of the projection to try: those that it supports, or both ends, some between, and these."""
        return self.declared["ALPHAS"] or (0.0, 0.25, 0.5, 0.75, 1.0, *more)

    @property
    def eps(self):
        """Distance from 1 to the next number in the declared dtype."""
        return float(np.finfo(self.dtype).eps)

    def has(self, operation):
        """Whether the target defines a callable of this name; a class with a method `step` is an OEU, and no more."""
        if isinstance(self.target, type):
            return operation == STEP and hasattr(self.target, "step")
        return callable(getattr(self.target, operation, None))

    @property
    def step_class(self):
        """The target's class OEU(model, optimizer, alpha, beta, granularity, rescale), which has a method `step`."""
        return self.target if isinstance(self.target, type) else getattr(self.target, STEP)

    def cast(self, values):
        """An array, or list of arrays, rounded to the declared dtype and given back as float64."""
        if isinstance(values, list):
            return [self.cast(value) for value in values]
        return np.asarray(values).astype(self.dtype).astype(np.float64)

    def raw(self, operation, *args, **options):
        """Call the target's function with these very objects, whatever it returns; options that have one supported
        value are not handed over."""
        only = [name for name, values in OPTIONS.items() if len(self.declared[values] or ()) == 1]
        self.watch(operation, args, options)
        with np.errstate(all="ignore"):
            return getattr(self.target, operation)(*args, **{k: v for k, v in options.items() if k not in only})

    def entropy_loss(self, logits):
        """(loss, grad), checked for form; logits: (N, K)."""
        return self.formed("entropy_loss", self.raw("entropy_loss", self.own(logits)), (0.0, logits), "loss", "grad")

    def kl_to_uniform(self, logits):
        """kl (N,), checked for form; logits: (N, K)."""
        return self.formed("kl_to_uniform", self.raw("kl_to_uniform", self.own(logits)), logits[:, 0], "kl")

    def fake_quantize(self, x, step, q_min, q_max):
        """x_hat, the shape of x, checked for form."""
        x_hat = self.raw("fake_quantize", self.own(x), step, q_min, q_max)
        return self.formed("fake_quantize", x_hat, np.asarray(x), "x_hat")

    def fake_quantize_backward(self, grad_out, x, step, q_min, q_max, *grad_scale, **options):
        """(grad_x, grad_step), checked for form."""
        name = "fake_quantize_backward"
        result = self.raw(name, self.own(grad_out), self.own(x), step, q_min, q_max, *grad_scale, **options)
        without_step = isinstance(result, (list, tuple)) and len(result) == 2 and result[1] is None
        return self.formed(name, result, (np.asarray(x), None if without_step else 0.0), "grad_x", "grad_step")

    def step_gradient(self, *arguments):
        """grad_step of `fake_quantize_backward`.  Raises Absent where it is None."""
        grad_step = self.fake_quantize_backward(*arguments)[1]
        if grad_step is None:
            raise Absent(f"{self.name} gives no step gradient (grad_step is None)")
        return grad_step

    def project(self, forget_grads, retain_grads, *args, **options):
        """List of arrays, shapes of forget_grads, checked for form."""
        return self._of_gradients("project", forget_grads, retain_grads, *args, **options)

    def oeu_direction(self, forget_grads, retain_grads, *args, **options):
        """List of arrays, shapes of forget_grads, checked for form."""
        return self._of_gradients("oeu_direction", forget_grads, retain_grads, *args, **options)

    def formed(self, operation, result, like, *names):
        """A result as float or float64 array, checked to have the form of what is right.

        like: what is right, a float, bool, array, None, or list or tuple of them; names: of the parts, for messages.
        """
        if isinstance(like, (list, tuple)):
            if not isinstance(result, (list, tuple)) or len(result) != len(like):
                count = f" ({len(like)} arrays)" * isinstance(like, list)
                raise Malformed(f"{EVERY[operation]} was expected{count}, got {_describe(result)}")
            names = names or [f"result[{i}]" for i in range(len(like))]
            return [self.formed(operation, *part) for part in zip(result, like, names)]
        (name,) = names or ("result",)
        if like is None:
            return None
        if isinstance(like, np.ndarray):
            return self._array(operation, name, result, like.shape)
        if isinstance(like, bool) and isinstance(result, (bool, np.bool_)):
            return float(result)
        return self._number(operation, name, result)

    def own(self, value):
        """Copies of float arrays in the declared dtype, to be handed over, lists and tuples of them too."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.own, value))
        floats = isinstance(value, (np.ndarray, np.floating)) and value.dtype.kind == "f"
        return np.array(value, dtype=self.dtype) if floats else value

    def _declared(self, name, default, is_right, right):
        value = getattr(self.target, name, default)
        try:
            known = value is default or is_right(value)
        except (TypeError, ValueError):
            known = False
        if not known:
            raise LoadError(f"{self.name}.{name} must be {right}, got {value!r}")
        return value

    def _number(self, operation, name, value):
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise Malformed(f"{EVERY[operation]} was expected: {name} is {_describe(value)}, not a float")
        if not np.isfinite(value):
            raise Violation(f"{operation}: {name} is {value}")
        return float(value)

    def _array(self, operation, name, value, shape):
        if isinstance(value, (np.generic, np.ndarray)):
            # NumPy itself turns results of 0-d arrays into scalars; a masked array hides its NaN from those who look
            value = np.asarray(value)
        if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
            raise Malformed(f"{EVERY[operation]} was expected: {name} is {_describe(value)}")
        if value.shape != shape:
            raise Malformed(f"{operation}: {name} must have shape {shape}, got {value.shape}")
        if np.finfo(value.dtype).eps > self.eps:
            raise Malformed(f"{operation}: {name} must have dtype {self.dtype} as DTYPE declares, got {value.dtype}")
        if not np.isfinite(value).all():
            raise Violation(f"{operation}: {name} holds {value[~np.isfinite(value)][0]}")
        return value.astype(np.float64)

    def _of_gradients(self, operation, forget_grads, retain_grads, *args, **options):
        result = self.raw(operation, self.own(forget_grads), self.own(retain_grads), *args, **options)
        return self.formed(operation, result, list(map(np.asarray, forget_grads)))


def load(name):
    """Implementation by name: "package.module", "path/to/file.py", or either followed by ":object".

    Running a stranger's module runs the stranger's code: do this only with code that you trust.
    Returns an `Implementation`.  Raises LoadError with the cause and the remedy, TypeError for what is no name.
    """
    boundary.instance("name", name, str, "string such as 'package.module'")
    where, _, attribute = name.partition(":") if not pathlib.Path(name).is_file() else (name, "", "")
    try:
        if where.endswith(".py"):
            target = _import_file(pathlib.Path(where))
        else:
            # as `python -m` does: the folder in which the command was started counts
            if "" not in sys.path and str(pathlib.Path.cwd()) not in sys.path:
                sys.path.insert(0, str(pathlib.Path.cwd()))
            target = importlib.import_module(where)
    except LoadError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported, or leave
        raise LoadError(
            f"{where!r} cannot be imported ({type(error).__name__}: {error}); "
            "expected is a module (package.module), a file (path/to/file.py), or either followed by :object"
        ) from error
    for part in filter(None, attribute.split(".")):
        if not hasattr(target, part):
            raise LoadError(f"{where!r} has no attribute {part!r}; expected is the object after the colon")
        target = getattr(target, part)
    return Implementation(target, name)


def _import_file(path):
    if not path.is_file():
        raise LoadError(f"{str(path)!r} is no file; expected is a Python file with the contract's functions")
    spec = importlib.util.spec_from_file_location(f"implementation_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a module up by name
    sys.path.insert(0, str(path.parent.resolve()))  # a file may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
