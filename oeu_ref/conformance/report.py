"""Trying all laws on one implementation, and telling what came out: as a table and as JSON."""

import contextlib
import itertools
import sys
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from .. import boundary
from ..boundary import GRANULARITIES, RESCALES
from ..contract import EVERY, OPTIONAL, OPTIONS, SIGNATURES, STEP
from ..judging.cases import CLASSES, GradientCase, dimensions
from ..judging.implementation import Implementation
from ..judging.law import LAWS, SEVERITIES, LawResult, Trial
from ..vectors.judge import MISTAKE

WIDTH = 118
EXPLAINED = 3  # failures with case and usual cause; of the others, which follow from these as a rule, what fails
JUDGED = ("holds", "partial", "fails", "expected")  # statuses of a law that looked at a result


@dataclass(frozen=True)
class Report:
    """What became of every law.

    name: of the implementation; dtype, mask: as it declares; results: `LawResult`s; required: operations that have to
    be judged; proposals: declarations with which what fails would hold; recognised: known mistakes that give the wrong
    values found; libraries: that it was run with, with their versions; tried: operation -> dimension -> values.
    """

    name: str
    dtype: str
    mask: str
    results: list
    required: tuple = ()
    proposals: tuple = ()
    recognised: tuple = ()
    libraries: str = ""
    tried: dict | None = None

    @property
    def failed(self):
        """Results of the laws that fail."""
        return [r for r in self.results if r.status == "fails"]

    @property
    def judged(self):
        """Operations that some law looked at, in the order of the contract."""
        looked_at = {operation for r in self.results if r.status in JUDGED for operation in r.operations}
        return [operation for operation in (*EVERY, STEP) if operation in looked_at]

    @property
    def refused(self):
        """Results of laws about judged operations some of whose cases were declined."""
        return [r for r in self.results if r.declined and set(r.operations) <= set(self.judged)]

    @property
    def missing(self):
        """Required operations that no law looked at."""
        return [operation for operation in self.required if operation not in self.judged]

    @property
    def ok(self):
        """Whether at least one law was tried, none fails, and nothing that is judged or required was declined."""
        return bool(self.judged) and not (self.failed or self.refused or self.missing)

    @property
    def cases(self):
        """Number of cases judged, all laws together."""
        return sum(r.cases for r in self.results)

    def as_dict(self):
        """The report as plain dicts and lists, for JSON."""
        more = {name: getattr(self, name) for name in ("ok", "cases", "judged", "exit_code")}
        return {**asdict(self), **more, "verdict": self.verdict()}

    @property
    def failures(self):
        """Failed results, the worst class first, in it what is no mere consequence, and the most specific law: that
        about the fewest kinds of input."""
        projects = any(r.operations == ("project",) for r in self.failed)

        def order(r):
            follows, kinds = projects and "oeu_direction" in r.operations, len(r.kinds) if "" not in r.kinds else 99
            return SEVERITIES.index(r.severity), follows, r.theorem == "exact", kinds

        return sorted(self.failed, key=order)

    @property
    def exit_code(self):
        """0: a pass; 1: wrong on ordinary inputs, or no pass; 3: wrong at the edges only; 4: in numerics only."""
        if self.failed and not (self.refused or self.missing):
            return {"definition": 1, "edge": 3, "numerics": 4}[self.failures[0].severity]
        return 0 if self.ok else 1

    def verdict(self):
        """What came out, in a sentence, and how much was judged and how much was not: a line each."""
        counts = Counter(r.status for r in self.results)
        if self.failed:
            kinds = {kind: None for r in self.failed for kind, holds in r.kinds.items() if not holds}
            at = {name: ", ".join(k for k in kinds if CLASSES.get(k) == name) for name in SEVERITIES}
            ordinary = self.failures[0].severity == "definition"
            words = f"BREAKS LAWS ({'wrong' if ordinary else 'right'} on ordinary inputs"
            words += f"; wrong at the edges: {at['edge']}" * bool(at["edge"])
            words += f"; imprecise: {at['numerics']}" * bool(at["numerics"]) + ")"
        elif self.missing:
            words = f"lacks what is required, {', '.join(self.missing)}"
        elif self.refused:
            words = f"declines cases of {len(self.refused)} laws, which is no pass"
        else:
            words = "holds all laws that apply" if self.judged else "has nothing to check"
        optional = sum(operation in OPTIONAL for operation in self.judged)
        optional = f"{optional} optional, " * bool(optional)
        judged, declined = sum(counts[status] for status in JUDGED), sum(r.declined for r in self.results)
        return (
            f"{self.name} {words}: {counts['holds']} hold, {counts['fails']} fail, {counts['partial']} hold in part\n"
            f"judged: {len(set(self.judged) - set(OPTIONAL))} of {len(SIGNATURES) + 1} operations, {optional}"
            f"{judged} of {len(self.results)} laws, "
            f"{self.cases:,} cases; declined: {declined:,} cases; {self.dtype}, {self.libraries}"
        )

    def table(self, verbose=False):
        """The report as text: the verdict, why each law fails that has a cause of its own, then a row for each law of
        an operation that fails and one for an operation all of whose laws hold; verbose: all laws, and what was tried.

        A row of marks says for each kind of input whether the law holds there (.) or fails (x).
        """
        lines = [
            *self.verdict().split("\n"),
            *self.recognised,
            *(f"consistent with {p}: declare it, if it is meant" for p in self.proposals),
        ]
        causes = {}
        for r in self.failures:  # one cause, such as an exception or a NaN, stands once
            same = "Error:" in r.message or " nan" in r.message
            causes.setdefault(r.message if same else r.law, []).append(r)
        for i, (first, *others) in enumerate(causes.values()):
            title = f"FAILS {self.failures.index(first) + 1}  {first.law}  (theorem {first.theorem}, {first.severity})"
            lines += [""] * (i <= EXPLAINED) + [title]
            texts = [("what", first.message), ("smallest case", first.example), ("usual cause", first.hint)]
            texts[2:2] = [("where", first.where)] * bool(first.where)
            texts += [("also", ", ".join(r.law for r in others))] * bool(others)
            for label, text in texts if i < EXPLAINED else texts[:1]:
                text = f"{label + ':':<15}{text}"
                lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 17)
        fine = {} if verbose else {r.operations: [] for r in self.results if r.status == "holds"}
        for r in self.results:
            if r.status in ("fails", "partial", "declined"):
                fine.pop(r.operations, None)
            elif r.operations in fine and r.status == "holds":
                fine[r.operations].append(r)
        shown = [r for r in self.results if r.status != "skipped" and r.operations not in fine]
        shown += [_row_of(operations, results) for operations, results in fine.items()]
        width = max((len(r.law) for r in shown), default=3)
        lines += ["", f"{'law':<{width}}  theorem   cases  result, kinds of input" if shown else "no law applies"]
        for r in shown:
            marks = "".join(".x"[not holds] for holds in r.kinds.values())
            bad = ", ".join(kind for kind, holds in r.kinds.items() if not holds)
            declined = f" ({r.declined} declined)" * bool(r.declined)
            lines.append(f"{r.law:<{width}}  {r.theorem:<8} {r.cases:>6}  {r.status}{declined} {marks} {bad}".rstrip())
        absent = [r.operations[0] for r in self.results if r.operations[0] in OPTIONAL and r.status == "skipped"]
        lines += ["", *textwrap.wrap(f"optional, not there: {', '.join(absent)}", WIDTH)] * bool(absent)
        left = [r for r in self.results if r.status not in ("holds", "fails") and r.operations[0] not in absent]
        reasons = Counter((r.status, r.message) for r in left)
        lines += [""] * bool(reasons) + [f"{status}, {n} laws: {reason}" for (status, reason), n in reasons.items()]
        if verbose:
            lines += ["", "tried, in each dimension of the input:"]
            for title, values in ((f"{o}, {name}:", found[name]) for o, found in self.tried.items() for name in found):
                text = f"  {title:<38}{_spread(values)}"
                lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 40)
        return "\n".join([*lines, "", self.verdict()])


def _row_of(operations, results):
    """One row for all laws of some operations that hold."""
    kinds = {kind: True for r in results for kind in r.kinds}
    name = f"{' and '.join(operations)}: {len(results)} law{'s' * (len(results) > 1)}"
    return LawResult(name, "", "holds", operations, sum(r.cases for r in results), 0, kinds)


def _spread(values):
    """Values of a dimension as text, the ends and how many where they are many."""
    texts = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in sorted(values, key=_order)]
    return ", ".join(texts) if len(texts) <= 24 else f"{texts[0]} to {texts[-1]}, {len(texts)} values"


def _order(value):
    try:
        return 0, float(value), ""
    except (TypeError, ValueError):
        return 1, 0.0, str(value)


def check(implementation, cases=50, stop_at_first=False, progress=lambda result: None, required=(), seed=0):
    """Try every law on an implementation: the fixed cases of all laws first, then drawn ones.

    implementation: an `Implementation`; cases: drawn for each law (times the law's weight), >= 1; stop_at_first: end
    with the first law that fails, without looking for its smallest case, its ranks, or what was tried; progress: called
    with each `LawResult`; required: operations, or ("all",), without which there is no pass; seed: another one draws
    other cases.
    Raises TypeError or ValueError for what is no `Implementation`, cases below 1, or unknown operations.
    Returns a `Report`. Deterministic: the same arguments give the same report.
    """
    wanted = "Implementation, as load(name) gives it"
    boundary.instance("implementation", implementation, Implementation, wanted)
    cases = boundary.integer("cases", cases, 1)
    required = tuple(boundary.one_of("required", operation, (*EVERY, STEP, "all")) for operation in required)
    required = tuple(SIGNATURES) if "all" in required else required
    tried = {}

    def watch(operation, args, options):
        for name, values in dimensions(operation, args, options).items():
            tried.setdefault(operation, {}).setdefault(name, set()).update(values)

    watched = implementation if stop_at_first else implementation.declaring(watch)
    trials = [Trial(law, watched, "" if stop_at_first else None) for law in LAWS]
    fixed = [(i, trial, case) for trial in trials for i, case in enumerate(trial.law.cases.fixed)]
    # who stops at the first failure tries one case of each law before the others: many mistakes show in any case
    for _, trial, case in sorted(fixed, key=lambda row: row[0] > 0) if stop_at_first else fixed:
        if not trial.try_case(case) and stop_at_first:
            break
    else:
        for trial in trials:
            trial.try_drawn(cases, shrink=not stop_at_first, seed=seed)
            progress(trial.result())
            if stop_at_first and trial.failures:
                break
    results = [trial.result() for trial in trials]
    proposals = [] if stop_at_first else _proposals(implementation, [r for r in results if r.status == "fails"])
    mask, failed = implementation.declared["QUANTIZER_MASK"], [r for r in results if r.status == "fails"]
    known = [(r.operations[0], *r.message.split(MISTAKE)[1:]) for r in failed if MISTAKE in r.message]
    recognised = [f"{operation} looks like a known mistake: {words}" for operation, words in known]
    for operation in SIGNATURES:  # what several of its laws say of ranks, a good part of those that fail
        told = Counter(r.where for r in failed if r.operations == (operation,) and hasattr(r.case, "seed"))
        most = [(words, n) for words, n in told.most_common(2) if words][:1]
        recognised += [f"{operation}: {words}" for words, n in most if n > 2 and 4 * n >= told.total()]
    loaded = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax", "TensorFlow": "tensorflow"}
    libraries = ", ".join(f"{name} {sys.modules[m].__version__}" for name, m in loaded.items() if m in sys.modules)
    tried = {operation: {name: list(values) for name, values in found.items()} for operation, found in tried.items()}
    about = implementation.name, str(implementation.dtype), mask, results, required
    return Report(*about, proposals, recognised, libraries, tried)


def _without_effect(implementation):
    """Options of the projection, as they are declared, that change nothing, or are refused but for one value."""
    forget, retain = GradientCase("typical", ((4,), (3,))).arrays(implementation)
    values = {"alpha": (0.0, 0.25, 1.0), "granularity": GRANULARITIES, "rescale": RESCALES}
    alike = []
    for option, declaration in OPTIONS.items():
        found = []
        for value in values[option]:
            with contextlib.suppress(Exception, SystemExit):  # a stranger's function may raise anything
                found.append(np.concatenate(implementation.project(forget, retain, **{option: value})))
        if all(np.array_equal(g_perp, found[0]) for g_perp in found):
            alike.append(declaration)
    return alike


def _conventions(operations, implementation):
    """Declarations to try for these operations, one or two at a time, those that change least first."""
    if "project" in operations:
        choices = [[{"NORMALIZATION": "additive", "EPSILON": 10.0**-n} for n in (8, 12, 6, 10, 5, 16)]]
        # who takes an option means all its values, and has got some of them wrong
        only = {"ALPHAS": (1.0,), "RESCALES": RESCALES, "GRANULARITIES": GRANULARITIES}
        choices += [[{"PROJECT_WHEN": "conflict"}]]
        choices += [[{name: (value,)} for value in only[name]] for name in _without_effect(implementation)]
    else:
        choices = [[{"QUANTIZER_MASK": word} for word in ("open", "round", "none")]]
        choices += [[{"TIES": word} for word in ("up", "away")]]
    two = itertools.combinations([[{}, *some] for some in choices], 2)
    tried = [{**first, **second} for pair in two for first, second in itertools.product(*pair)]
    return sorted(filter(None, tried), key=len)


def _proposals(implementation, failed):
    """For each group that fails, the first declaration with which what failed holds, and all its laws' fixed cases."""
    proposals, seen = [], {r.law: r.case for r in failed}
    for group in ({"fake_quantize", "fake_quantize_backward"}, {"project", "oeu_direction"}):
        mine = [r for r in failed if group & set(r.operations)]
        if all(r.theorem == "contract" for r in mine):  # none, or what no convention mends
            continue
        laws = [law for law in LAWS if group & set(law.needs)]
        for convention in _conventions(group, implementation):
            trials = [Trial(law, implementation.declaring(**convention)) for law in laws]
            attempts = [(trial, seen[trial.law.name]) for trial in trials if trial.law.name in seen]
            attempts += [(trial, case) for trial in trials for case in trial.law.cases.fixed]
            if all(trial.try_case(case) for trial, case in attempts) and any(trial.held for trial in trials):
                proposals.append(" and ".join(f"{name} = {value!r}" for name, value in convention.items()))
                break
    return proposals
