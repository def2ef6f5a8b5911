"""What a law is, and how it is tried: on fixed cases that it names itself, then on cases that Hypothesis draws."""

import dataclasses
import functools
import inspect
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
import numpy as np
from hypothesis.errors import UnsatisfiedAssumption

from .cases import CLASSES, SMALL, Cases, kind_of
from .implementation import Absent, Implementation, Imprecise, Malformed, Violation

SEVERITIES = ("definition", "edge", "numerics")  # of failures, the worst first
QUIET = {"database": None, "deadline": None, "report_multiple_bugs": False, "verbosity": hypothesis.Verbosity.quiet}
QUIET |= {"suppress_health_check": list(hypothesis.HealthCheck)}
# an array of each rank, with more than one row and column
RANKS = {"single numbers": (), "vectors": (12,), "matrices": (3, 4)}
RANKS |= {"3-d arrays": (2, 3, 2), "4-d arrays": (2, 3, 2, 2)}
# the usual cause of a failure, where no law has a say
FORM = "It returns another type, shape or precision than the contract says: the mathematics was not looked at."
LOST = "Small entries are lost: log p is best a log-softmax, not the logarithm of a rounded or clamped probability."
TOGETHER = 10  # cases in one example of Hypothesis, whose own work is more than that of a law
LAWS = []  # filled by the decorators below, in the order of the files and lines in which the laws stand


@dataclass(frozen=True)
class Law:
    """A statement about the contract's functions that every right implementation satisfies.

    name: the statement in a few words; theorem: of arXiv 2602.00567, or the source that it follows; statement: one
    sentence; hint: the usual cause of a failure; needs: operations that it calls; check(implementation, case): raises
    `Violation` where the law is broken; cases: on which it is tried; weight: multiplies the number of drawn ones;
    when: declarations of an implementation that it is about, name -> value or values, such as QUANTIZER_MASK -> "clip".
    """

    name: str
    theorem: str
    statement: str
    hint: str
    needs: tuple
    check: Callable
    cases: Cases
    weight: float = 1.0
    when: dict = None

    def passes_over(self, implementation):
        """Why it is not about an implementation, as a sentence; "" where it is."""
        missing = [operation for operation in self.needs if not implementation.has(operation)]
        if missing:
            return f"{implementation.name} has no {' and no '.join(missing)}"
        for name, value in (self.when or {}).items():
            declared = implementation.declared[name]
            wanted, given = (v if isinstance(v, tuple) else (v,) for v in (value, declared))
            if declared is not None and not set(wanted) & set(given):
                return f"about {name} = {value!r}, not {declared!r}"
        return ""


@dataclass(frozen=True)
class LawResult:
    """What became of a law.

    status: "holds", "fails", "partial" (it holds for some cases, the implementation declined others), "declined" (all
    of them) or "skipped"; operations: that it is about; cases: how many were judged; declined: how many were refused by
    a NotImplementedError; case, example: the smallest failing case, and as text; message: how it fails, or why it was
    not judged; where: for which shapes it fails and for which it does not; hint: the usual cause of such a failure.
    """

    law: str
    theorem: str
    status: str
    operations: tuple
    cases: int = 0
    declined: int = 0
    kinds: dict | None = None
    severity: str = ""
    case: object = None
    example: str = ""
    message: str = ""
    where: str = ""
    hint: str = ""


def about(*needs, **group):
    """The decorator for laws about these operations: `@law(theorem, cases)` on a function (implementation, case).

    The function's name is the law's; the first paragraph of its docstring states it in one sentence, the second is the
    usual cause of a failure. weight and, as names, declarations that the law is about, or all of the group: see `Law`.
    """

    def law(theorem, cases, weight=1.0, **when):
        def enter(check):
            if check.__doc__ is None:
                raise ValueError("laws are stated in docstrings, which python -OO leaves out: run it with -O at most")
            statement, _, hint = (" ".join(part.split()) for part in inspect.getdoc(check).partition("\n\n"))
            name = check.__name__.replace("_", " ")
            LAWS.append(Law(name, theorem, statement, hint, needs, check, cases, weight, {**group, **when}))
            return check

        return enter

    return law


def law_of(operation, check, theorem, cases, weight=1.0, **when):
    """Enter check(implementation, case, operation) as a law about an operation; its docstring may name {operation}."""
    law = functools.partial(check, operation=operation)
    law.__name__ = f"{operation}_{check.__name__}"
    law.__doc__ = inspect.getdoc(check).format(operation=operation)
    about(operation)(theorem, cases, weight, **when)(law)


class Trial:
    """A law on an implementation: `try_case`, then `try_drawn` unless it fails; `result` says what came out.

    where: which ranks fail, for who does not want to know; None: tried when it fails.
    """

    def __init__(self, law: Law, implementation: Implementation, where=None):
        self.law, self.implementation, self.where = law, implementation, where
        self.skipped = law.passes_over(implementation)
        self.held, self.declined, self.refusal, self.case = 0, 0, "", None
        self.kinds, self.failures = {}, {}  # kind of input -> whether it holds, -> (case, message, hint)

    def try_case(self, case):
        """Try it on one case, after a failure too; returns whether there was none so far."""
        self._run(lambda: self._attempt(case))
        return not self.failures

    def try_drawn(self, cases, shrink=True, seed=0):
        """Try `cases` drawn cases (times the law's weight) up to a failure on ordinary inputs; shrink: make a failing
        one as small as it goes."""
        count = round(cases * self.law.weight)
        if count == 0:
            return
        phases = [hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * shrink
        # Hypothesis begins with the simplest example there is: were it the only one, nothing would be drawn
        examples = max(min(count, 5), -(-count // TOGETHER))
        settings = hypothesis.settings(max_examples=examples, phases=phases, **QUIET)
        together = hypothesis.strategies.tuples(*[self.law.cases.drawn] * -(-count // examples))
        drawn = hypothesis.given(together)(lambda cases: [self._attempt(case) for case in cases] and None)
        # the draws depend on seed and name alone, so that the same call gives the same result
        drawn, known = settings(hypothesis.seed(seed ^ zlib.crc32(self.law.name.encode()))(drawn)), None
        while known != set(self.failures) and "definition" not in map(_class, self.failures):
            known = set(self.failures)
            self._run(drawn)

    def _attempt(self, case):
        self.case, kind = case, kind_of(case)
        if kind in self.failures:  # what else fails there says no more
            return
        try:
            self.law.check(self.implementation, case)
            self.held += 1
            self.kinds.setdefault(kind, True)
        except UnsatisfiedAssumption:
            pass  # the law says nothing about it
        except Absent as error:
            require(not (self.held or self.failures), f"{error} here, and elsewhere it does")
            self.skipped = str(error)
        except Imprecise as error:  # something worse may be wrong on another case
            self._failed(SMALL, error)
        except NotImplementedError as error:  # refused: this case is neither held against it nor counted for it
            self.declined, self.refusal = self.declined + 1, str(error)

    def _run(self, attempts):
        if self.skipped:
            return
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # an implementation may warn as it likes; what it returns counts
                attempts()
        except (Exception, SystemExit) as error:  # whatever comes of a legal input is a failure
            self._failed(kind_of(self.case), error)

    def _failed(self, kind, error):
        message = str(error).strip() if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        hint = {Malformed: FORM, Imprecise: LOST}.get(type(error), self.law.hint)
        self.failures.setdefault(kind, (self.case, message, hint))
        self.kinds[kind] = False

    def _where(self, case):
        """Which ranks fail as the case does, with one array alone, such as "only matrices fail"; "" where all do."""
        name = next((name for name in ("shapes", "shape") if hasattr(case, name)), None)
        failing, holding = [], []
        for words, shape in RANKS.items() if name else ():
            trial = Trial(self.law, self.implementation)
            shaped = {name: shape if name == "shape" else (shape,)}
            for seed in range(4):  # a case or two may hold by luck
                trial._run(lambda: trial._attempt(dataclasses.replace(case, seed=seed, **shaped)))
            if trial.failures or trial.held:
                (failing if trial.failures else holding).append(words)
        # one number alone holds many laws whatever is done to it
        told = failing and (set(holding) - {"single numbers"})
        return f"only {', '.join(failing)} fail, not {', '.join(holding)}" if told else ""

    def result(self):
        """What became of the law so far, as a `LawResult`."""
        about = {"law": self.law.name, "theorem": self.law.theorem, "operations": self.law.needs}
        counts = {"cases": self.held + len(self.failures), "declined": self.declined, "kinds": self.kinds}
        if self.skipped:
            return LawResult(status="skipped", message=self.skipped, **about)
        if self.failures:
            worst = min(self.failures, key=lambda kind: SEVERITIES.index(_class(kind)))  # the first of the worst class
            case, message, hint = self.failures[worst]
            found = {"severity": _class(worst), "case": case, "example": str(case), "message": message}
            self.where = self._where(case) if self.where is None else self.where
            found |= {"where": self.where, "hint": hint}
            return LawResult(status="fails", **found, **counts, **about)
        if self.declined:
            message = f"NotImplementedError: {self.refusal or ' or '.join(self.law.needs)}"
            return LawResult(status="partial" if self.held else "declined", message=message, **counts, **about)
        if not self.held:
            return LawResult(status="skipped", message="no case is within what is declared", **about)
        return LawResult(status="holds", **counts, **about)


def _class(kind):
    return CLASSES.get(kind, "definition")


def try_law(law: Law, implementation: Implementation, cases=50):
    """Try a law on its fixed cases and on `cases` drawn ones (times the law's weight), at least 1.

    Returns a `LawResult`. The same call gives the same result.
    """
    trial = Trial(law, implementation)
    all(map(trial.try_case, law.cases.fixed))  # up to the first that fails
    trial.try_drawn(cases)
    return trial.result()


def assume(condition):
    """Pass over a case that a law says nothing about, unless the condition holds."""
    if not condition:
        raise UnsatisfiedAssumption


def require(condition, message, kind=Violation):
    """Raise kind(message) unless the condition holds; message: a string, or a function that makes it."""
    if not condition:
        raise kind(message() if callable(message) else message)
