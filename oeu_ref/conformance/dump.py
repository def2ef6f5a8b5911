"""A failing case as files: its arrays, and a script that makes the same calls and tries the same law again."""

import io
import pathlib

import numpy as np

from ..files import write_bytes, write_text
from ..judging.law import LAWS

SCRIPT = '''"""{statement}

{message}
"""

import pathlib

import numpy as np

{imports}from oeu_ref.conformance import LAWS, load

arrays = np.load(pathlib.Path(__file__).with_suffix(".npz"))
implementation = load({name!r})
target = implementation.target
{calls}
(law,) = [law for law in LAWS if law.name == {law!r}]
law.check(implementation, {case!r})  # raises what the law says
'''


def dump_case(implementation, result, folder="."):
    """Write failing-LAW.npz and failing-LAW.py for a `LawResult` that fails; returns the two paths.

    implementation: as `load` gives it, so that its name leads back to it.
    Raises OSError where the folder cannot be written to.
    """
    arrays, calls = {}, []

    def written(value):
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        if not isinstance(value, np.ndarray):
            return repr(value)
        arrays[f"a{len(arrays)}"] = value.copy()
        return f'arrays["a{len(arrays) - 1}"]'

    def watch(operation, args, options):
        values = [*map(written, args), *(f"{name}={value!r}" for name, value in options.items())]
        calls.append(f"print(target.{operation}({', '.join(values)}))")

    (law,) = [law for law in LAWS if law.name == result.law]
    try:
        law.check(implementation.declaring(watch), result.case)
    except (Exception, SystemExit):
        pass  # the failure that is written down
    module = type(result.case).__module__
    imports = f"from {module} import {type(result.case).__name__}\n" * (module != "builtins")
    path = pathlib.Path(folder, f"failing-{result.law.replace(' ', '-')}")
    np.savez(buffer := io.BytesIO(), **arrays)
    what = {"statement": law.statement, "message": result.message, "imports": imports, "name": implementation.name}
    what |= {"calls": "\n".join(calls), "law": law.name, "case": result.case}
    script = write_text(path.with_suffix(".py"), SCRIPT.format(**what))
    return write_bytes(path.with_suffix(".npz"), buffer.getvalue()), script
