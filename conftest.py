"""The option --impl, and the law tests that it selects.

It stands here and not in tests/ because pytest takes the value of `--impl file.py` for a folder to start from, and
would look for options there and above only. A file outside this folder needs the form `--impl=/path/to/file.py`.
"""

import collections
import os
import signal

import pytest

# a shell starts background jobs such that they ignore Ctrl-C, and so would all processes that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# before NumPy and PyTorch are imported: on tensors as small as the tests' more threads only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

OURS = (
    "oeu_ref.reference",
    "oeu_ref.core.contract:float64",
    "oeu_ref.core.contract:float32",
    "oeu_ref.core.contract:float64_round",
    "oeu_ref.core.contract:fast_float64",
    "oeu_ref.core.contract:fast_float32",
)
# the same code in another dtype, where the laws about inputs, memory and repeats look at the same lines once more
AGAIN = ("oeu_ref.core.contract:float32", "oeu_ref.core.contract:fast_float32")


def pytest_addoption(parser):
    parser.addoption(
        "--impl",
        action="append",
        default=[],
        metavar="NAME",
        help="run the laws against this implementation instead of oeu_ref's own: package.module, path/to/file.py "
        "(--impl=FILE for a file outside this folder), or either followed by :object; may be given several times "
        "(this runs its code)",
    )
    parser.addoption(
        "--cases", type=int, metavar="N", help="cases drawn for each law (default: 10, and 50 with --impl)"
    )


def pytest_ignore_collect(collection_path, config):
    """A folder of tests that are left out is not imported either, unless it is named."""
    kind = collection_path.name
    if collection_path.parent.name == "tests" and kind in ("reliability", "studies", "peers"):
        if f"not {kind}" in config.option.markexpr and not any(kind in word for word in config.args):
            return True


def pytest_configure(config):
    from oeu_ref.conformance import LoadError, load

    config.drawn_cases, config.caught_mutants = 0, []
    config.cases = config.getoption("--cases") or (50 if config.getoption("--impl") else 10)
    try:
        config.implementations = [load(name) for name in config.getoption("--impl")]
    except LoadError as error:
        raise pytest.UsageError(f"--impl: {error}") from None


def pytest_generate_tests(metafunc):
    if "law" in metafunc.fixturenames:
        from oeu_ref.conformance import LAWS, load

        outsiders = metafunc.config.implementations
        # an outsider sees by name what is skipped; ours are views, each of which has what differs from the others
        pairs = [
            pytest.param(
                implementation,
                law,
                id=f"{implementation.name}-{law.theorem} {law.name}",
                marks=pytest.mark.reliability if law.theorem == "contract" and implementation.name in AGAIN else (),
            )
            for implementation in outsiders or map(load, OURS)
            for law in LAWS
            if outsiders or not law.passes_over(implementation)
        ]
        metafunc.parametrize(("implementation", "law"), pairs)


def pytest_terminal_summary(terminalreporter, config):
    if config.drawn_cases:
        terminalreporter.write_line(f"laws: {config.drawn_cases:,} cases tried")
    if config.caught_mutants:
        by_law = collections.Counter(law for _, _, law, _ in config.caught_mutants)
        terminalreporter.write_line(f"{by_law.total()} wrong implementations caught, by the first law that they break:")
        for law, count in by_law.most_common():
            terminalreporter.write_line(f"{count:4}  {law}")
            if config.option.verbose >= 0:  # -v, since -q is the default here
                for name, what, _, _ in (row for row in config.caught_mutants if row[2] == law):
                    terminalreporter.write_line(f"        {name}: {what}")
