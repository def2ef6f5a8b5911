"""What a law is, and how it is tried: on fixed cases that it names itself, then on cases that Hypothesis draws."""

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
from hypothesis.errors import UnsatisfiedAssumption

from .implementation import Implementation, Violation

LAWS = []  # filled by the decorator below, in the order of the files and lines in which the laws stand


@dataclass(frozen=True)
class Law:
    """A statement about the contract's functions that every right implementation satisfies.

    name: the statement in a few words; theorem: of arXiv 2602.00567, or the source that it follows; statement: one
    sentence; needs: operations that it calls; check(implementation, case): raises `Violation` where the law is broken;
    cases: Hypothesis strategy; fixed: cases that are always tried first; hint: the usual cause of a failure; mask: the
    QUANTIZER_MASK that it is about, None for any; weight: multiplies the number of drawn cases.
    """

    name: str
    theorem: str
    statement: str
    needs: tuple
    check: Callable
    cases: hypothesis.strategies.SearchStrategy
    fixed: tuple
    hint: str
    mask: str | None
    weight: float


@dataclass(frozen=True)
class LawResult:
    """What became of a law. status: "holds", "fails" or "skipped"; cases: how many were tried; example: the smallest
    failing one; message: how it fails, or why it was skipped; hint: the usual cause of such a failure."""

    law: str
    theorem: str
    status: str
    cases: int
    example: str = ""
    message: str = ""
    hint: str = ""


def law(theorem, needs, cases, hint, fixed=(), mask=None, weight=1.0):
    """Decorator: enter a function (implementation, case) into the laws; its name and docstring are the law's."""

    def enter(check):
        statement = " ".join(check.__doc__.split())
        name = check.__name__.replace("_", " ")
        LAWS.append(Law(name, theorem, statement, needs, check, cases, tuple(fixed), hint, mask, weight))
        return check

    return enter


def try_law(law: Law, implementation: Implementation, cases=50, shrink=True):
    """Try a law on its fixed cases and on `cases` drawn ones (times the law's weight).

    cases: >= 1; shrink: whether a failing drawn case is made as small as it goes.
    Returns a `LawResult`. The same call gives the same result: the draws depend on the law's name alone.
    """
    missing = [operation for operation in law.needs if not implementation.has(operation)]
    if missing:
        return _result(law, "skipped", 0, message=f"{implementation.name} has no {' and no '.join(missing)}")
    if law.mask not in (None, implementation.mask):
        return _result(law, "skipped", 0, message=f"about QUANTIZER_MASK = {law.mask!r}, not {implementation.mask!r}")

    tried, failing = 0, None

    def attempt(case):
        nonlocal tried, failing
        try:
            law.check(implementation, case)
        except UnsatisfiedAssumption:
            raise
        except Exception:
            failing = case
            raise
        tried += 1

    phases = [hypothesis.Phase.generate] + ([hypothesis.Phase.shrink] if shrink else [])
    drawn = hypothesis.given(law.cases)(attempt)
    drawn = hypothesis.seed(zlib.crc32(law.name.encode()))(drawn)
    drawn = hypothesis.settings(
        max_examples=max(1, round(cases * law.weight)),
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        suppress_health_check=list(hypothesis.HealthCheck),
    )(drawn)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an implementation may warn as it likes; what counts is what it returns
            for case in law.fixed:
                try:
                    attempt(case)
                except UnsatisfiedAssumption:
                    pass
            drawn()
    except NotImplementedError as error:
        where = str(error) or " or ".join(law.needs)
        return _result(law, "skipped", 0, message=f"{implementation.name} raises NotImplementedError: {where}")
    except Exception as error:  # whatever an implementation raises on a legal input is a failure of it
        message = str(error).strip() if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        return _result(law, "fails", tried + 1, example=str(failing), message=message, hint=law.hint)
    return _result(law, "holds", tried)


def _result(law, status, cases, **rest):
    return LawResult(law.name, law.theorem, status, cases, **rest)


def require(condition, message):
    """Raise `Violation(message)` unless the condition holds; message: a string, or a function that makes it."""
    if not condition:
        raise Violation(message() if callable(message) else message)
