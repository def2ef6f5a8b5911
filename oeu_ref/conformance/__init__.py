"""Whether an implementation of OEU is right: the contract, the laws, and test vectors for other languages.

The laws stand in the files named `*_laws.py`, here and in `oeu_ref.optional`; what runs for outsiders is what runs
for our own reference and core.
"""

# each enters its laws into LAWS: the order here is the order of every report
# isort: off
from . import entropy_laws, projection_laws, quantizer_laws, step_laws  # noqa: F401
from ..optional import whole_step_laws  # noqa: F401
from . import contract_laws, vector_laws  # noqa: F401
from ..optional import optional_laws  # noqa: F401

# isort: on
from ..contract import SIGNATURES
from ..judging.implementation import Implementation, LoadError, Violation, load
from ..judging.law import LAWS, Law, LawResult, try_law
from .dump import dump_case
from .expectations import expecting, read_expected
from .report import Report, check

__all__ = [
    "Implementation",
    "LAWS",
    "Law",
    "LawResult",
    "LoadError",
    "Report",
    "SIGNATURES",
    "Violation",
    "check",
    "dump_case",
    "expecting",
    "load",
    "read_expected",
    "try_law",
]
