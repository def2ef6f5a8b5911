"""Failures that are known: a file names the laws that an implementation is expected to break, and why."""

import dataclasses
import pathlib

from ..judging.law import LAWS

STATUS = "expected"  # of a law that fails, as expected


def read_expected(path):
    """{law: reason} of a file with a law's name, " | " and a reason in each line, # for comments; none without a file.

    Raises ValueError for a line of another form or a law that there is not, OSError for a file that cannot be read.
    """
    expected, known = {}, {law.name for law in LAWS}
    text = pathlib.Path(path).read_text(encoding="utf-8") if path else ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, bar, reason = (part.strip() for part in line.partition("|"))
            if name not in known or not (bar and reason):
                raise ValueError(f"{path}, line {number}, must be the name of a law, a bar and a reason, got {line!r}")
            expected[name] = reason
    return expected


def expecting(report, expected):
    """The report in which laws that fail as expected count as no failure, and one that was to fail and holds as one.

    report: a `Report`; expected: of `read_expected`.
    """
    results = []
    for r in report.results:
        reason = expected.get(r.law)
        if reason and r.status == "fails":
            r = dataclasses.replace(r, status=STATUS, message=reason)
        elif reason and r.status == "holds":
            message = f"expected to fail ({reason}), but it holds: take it off the list"
            r = dataclasses.replace(r, status="fails", severity="definition", message=message)
        results.append(r)
    return dataclasses.replace(report, results=results)
