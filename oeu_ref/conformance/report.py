"""Trying all laws on one implementation, and telling what came out: as a table and as JSON."""

import textwrap
from collections import Counter
from dataclasses import asdict, dataclass

from .. import boundary
from .implementation import SIGNATURES, STEP, Implementation
from .law import LAWS, Trial

WIDTH = 118
JUDGED = ("holds", "partial", "fails")  # statuses of a law that looked at a result


@dataclass(frozen=True)
class Report:
    """What became of every law.

    name: of the implementation; dtype, mask: as it declares; results: `LawResult`s; required: operations that have to
    be judged.
    """

    name: str
    dtype: str
    mask: str
    results: list
    required: tuple = ()

    @property
    def failed(self):
        """Results of the laws that fail."""
        return [r for r in self.results if r.status == "fails"]

    @property
    def judged(self):
        """Operations that some law looked at, in the order of the contract."""
        looked_at = {operation for r in self.results if r.status in JUDGED for operation in r.operations}
        return [operation for operation in (*SIGNATURES, STEP) if operation in looked_at]

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
        return {**asdict(self), "ok": self.ok, "cases": self.cases, "judged": self.judged, "verdict": self.verdict()}

    def verdict(self):
        """What came out, and how much was judged and how much was not: a line each."""
        counts = Counter(r.status for r in self.results)
        if self.failed:
            words = "BREAKS LAWS"
        elif self.missing:
            words = f"lacks what is required, {', '.join(self.missing)}"
        elif self.refused:
            words = f"declines cases of {len(self.refused)} laws, which is no pass"
        else:
            words = "holds all laws that apply" if self.judged else "has nothing to check"
        judged, declined = sum(counts[status] for status in JUDGED), sum(r.declined for r in self.results)
        return (
            f"{self.name} {words}: {counts['holds']} hold, {counts['fails']} fail, {counts['partial']} hold in part\n"
            f"judged: {len(self.judged)} of {len(SIGNATURES) + 1} operations, {judged} of {len(self.results)} laws, "
            f"{self.cases:,} cases; declined: {declined:,} cases"
        )

    def table(self):
        """The report as text for a terminal: a line for each law, and an explanation for each that fails."""
        width = max(len(r.law) for r in self.results)
        lines = [f"{self.name}  ({self.dtype}, {self.mask} mask)", "", f"{'law':<{width}}  theorem   cases  result"]
        for r in self.results:
            declined = f" ({r.declined} declined)" * (r.status == "partial")
            lines.append(f"{r.law:<{width}}  {r.theorem:<8} {r.cases:>6}  {r.status}{declined}")
        reasons = Counter((r.status, r.message) for r in self.results if r.status not in ("holds", "fails"))
        lines += [""] * bool(reasons) + [f"{status}, {n} laws: {reason}" for (status, reason), n in reasons.items()]
        for r in self.failed:
            lines += ["", f"FAILS  {r.law}  (theorem {r.theorem})"]
            for label, text in (("what", r.message), ("smallest case", r.example), ("usual cause", r.hint)):
                lines += textwrap.wrap(
                    f"{label + ':':<15}{text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 17
                )
        return "\n".join([*lines, "", self.verdict()])


def check(implementation, cases=50, stop_at_first=False, progress=lambda result: None, required=(), seed=0):
    """Try every law on an implementation: the fixed cases of all laws first, then drawn ones.

    implementation: an `Implementation`; cases: drawn for each law (times the law's weight), >= 1; stop_at_first: end
    with the first law that fails, without looking for its smallest case; progress: called with each `LawResult`;
    required: operations, or ("all",), without which there is no pass; seed: another one draws other cases.
    Raises TypeError or ValueError for what is no `Implementation`, cases below 1, or unknown operations.
    Returns a `Report`. Deterministic: the same arguments give the same report.
    """
    if not isinstance(implementation, Implementation):
        kind = type(implementation).__name__
        raise TypeError(f"implementation must be an Implementation, as load(name) gives it, got {kind}")
    cases, known = boundary.integer("cases", cases, 1), (*SIGNATURES, STEP)
    required = tuple(boundary.one_of("required", operation, (*known, "all")) for operation in required)
    required = tuple(SIGNATURES) if "all" in required else required
    trials = [Trial(law, implementation) for law in LAWS]
    for trial in trials:
        trial.try_fixed()
        if stop_at_first and trial.failure:
            break
    else:
        for trial in trials:
            trial.try_drawn(cases, shrink=not stop_at_first, seed=seed)
            progress(trial.result())
            if stop_at_first and trial.failure:
                break
    results = [trial.result() for trial in trials]
    return Report(implementation.name, str(implementation.dtype), implementation.mask, results, required)
