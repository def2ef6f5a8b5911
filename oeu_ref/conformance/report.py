"""Trying all laws on one implementation, and telling what came out: as a table and as JSON."""

import textwrap
from collections import Counter
from dataclasses import asdict, dataclass

from .. import boundary
from .implementation import Implementation
from .law import LAWS, Trial

WIDTH = 118


@dataclass(frozen=True)
class Report:
    """What became of every law. name: of the implementation; dtype, mask: as it declares; results: `LawResult`s."""

    name: str
    dtype: str
    mask: str
    results: list

    @property
    def failed(self):
        """Results of the laws that fail."""
        return [r for r in self.results if r.status == "fails"]

    @property
    def ok(self):
        """Whether no law fails and at least one holds."""
        return not self.failed and any(r.status == "holds" for r in self.results)

    @property
    def cases(self):
        """Number of cases tried, all laws together."""
        return sum(r.cases for r in self.results)

    def as_dict(self):
        """The report as plain dicts and lists, for JSON."""
        return {**asdict(self), "ok": self.ok, "cases": self.cases}

    def table(self):
        """The report as text for a terminal: a line for each law, and an explanation for each that fails."""
        width = max(len(r.law) for r in self.results)
        lines = [f"{self.name}  ({self.dtype}, {self.mask} mask)", "", f"{'law':<{width}}  theorem   cases  result"]
        lines += [f"{r.law:<{width}}  {r.theorem:<8} {r.cases:>6}  {r.status}" for r in self.results]
        reasons = Counter(r.message for r in self.results if r.status == "skipped")
        lines += [""] * bool(reasons) + [f"skipped, {n} laws: {reason}" for reason, n in reasons.items()]
        for r in self.failed:
            lines += ["", f"FAILS  {r.law}  (theorem {r.theorem})"]
            for label, text in (("what", r.message), ("smallest case", r.example), ("usual cause", r.hint)):
                lines += textwrap.wrap(
                    f"{label + ':':<15}{text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 17
                )
        counts = {status: sum(r.status == status for r in self.results) for status in ("holds", "fails", "skipped")}
        verdict = "holds all laws that apply" if self.ok else "BREAKS LAWS" if self.failed else "has nothing to check"
        lines += ["", f"{self.name} {verdict}: {counts['holds']} hold, {counts['fails']} fail, "]
        lines[-1] += f"{counts['skipped']} skipped, {self.cases:,} cases"
        return "\n".join(lines)


def check(implementation, cases=50, stop_at_first=False, progress=lambda result: None):
    """Try every law on an implementation: the fixed cases of all laws first, then drawn ones.

    implementation: an `Implementation`; cases: drawn for each law (times the law's weight), >= 1; stop_at_first: end
    with the first law that fails, without looking for its smallest case; progress: called with each `LawResult`.
    Raises TypeError or ValueError for what is no `Implementation` or for cases below 1.
    Returns a `Report`. Deterministic: the same implementation and number of cases give the same report.
    """
    if not isinstance(implementation, Implementation):
        kind = type(implementation).__name__
        raise TypeError(f"implementation must be an Implementation, as load(name) gives it, got {kind}")
    cases = boundary.integer("cases", cases, 1)
    trials = [Trial(law, implementation) for law in LAWS]
    for trial in trials:
        trial.try_fixed()
        if stop_at_first and trial.failure:
            break
    else:
        for trial in trials:
            trial.try_drawn(cases, shrink=not stop_at_first)
            progress(trial.result())
            if stop_at_first and trial.failure:
                break
    return Report(implementation.name, str(implementation.dtype), implementation.mask, [t.result() for t in trials])
