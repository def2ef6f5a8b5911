"""The option --impl, and the law tests that it selects."""

import pytest

OURS = (
    "oeu_ref.reference",
    "oeu_ref.core.contract:float64",
    "oeu_ref.core.contract:float32",
    "oeu_ref.core.contract:float64_round",
)


def pytest_addoption(parser):
    parser.addoption(
        "--impl",
        action="append",
        default=[],
        metavar="NAME",
        help="run the laws against this implementation instead of oeu_ref's own: package.module, path/to/file.py, or "
        "either followed by :object; may be given several times (this runs its code)",
    )


def pytest_generate_tests(metafunc):
    if "law" in metafunc.fixturenames:
        from oeu_ref.conformance import LAWS

        names = metafunc.config.getoption("--impl") or OURS
        metafunc.parametrize("implementation", names, indirect=True, scope="session")
        metafunc.parametrize("law", LAWS, ids=lambda law: f"{law.theorem} {law.name}")


@pytest.fixture(scope="session")
def implementation(request):
    """The implementation named by the parameter, loaded once."""
    from oeu_ref.conformance import LoadError, load

    try:
        return load(request.param)
    except LoadError as error:
        pytest.fail(f"--impl {request.param}: {error}", pytrace=False)


def pytest_configure(config):
    config.drawn_cases = 0


def pytest_terminal_summary(terminalreporter, config):
    if config.drawn_cases:
        terminalreporter.write_line(f"laws: {config.drawn_cases:,} cases tried")
