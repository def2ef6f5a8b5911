"""The laws of OEU, one test for each law and implementation: `pytest -k theorems [--impl NAME] [--cases N]`.

The laws themselves, a sentence and a measurement each, stand in the `*_laws.py` of `oeu_ref/conformance` and
`oeu_ref/optional`, where an outsider's `python -m oeu_ref check` finds them too; their controls, implementations that
must break them, in `tests/mutants`.
"""

import pytest
import torch

from oeu_ref.conformance import check, load, try_law


def test_theorems(implementation, law, pytestconfig):
    """Every law holds, or is skipped by name where the implementation lacks what it needs."""
    result = try_law(law, implementation, pytestconfig.cases)
    pytestconfig.drawn_cases += result.cases
    if result.status == "skipped":
        pytest.skip(result.message)
    if result.status == "fails":
        pytest.fail(
            f"{law.statement}\nimplementation: {implementation.name}\nwhat:           {result.message}\n"
            f"smallest case:  {result.example}\nusual cause:    {result.hint}",
            pytrace=False,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["oeu_ref.core.contract:cuda", "oeu_ref.core.contract:cuda_float64"])
def test_theorems_hold_on_cuda(name, pytestconfig):
    """Every law holds for the core on a GPU."""
    report = check(load(name), pytestconfig.cases)
    pytestconfig.drawn_cases += report.cases
    assert report.ok, report.table()
