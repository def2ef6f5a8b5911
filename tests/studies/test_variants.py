"""The comparison of OEU's own options."""

import functools
import json

import pytest

from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.lab import baselines, engine, variants
from oeu_ref.lab.experiment import QUICK, VARIANTS

RUN = functools.partial(
    variants.run,
    seeds=(1, 2),
    grid={"learning_rate": (0.1,), "weight": (0.3, 1.0), "steps": (2,)},
    search_seeds=(7,),
    config=QUICK,
    progress=False,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick comparison."""
    return RUN(tmp_path_factory.mktemp("variants"))


def test_every_variant_gets_the_same_search_and_seeds(written):
    """Each has two measured columns with a value a seed, and the table is a function of the JSON alone."""
    data = json.loads(written["json"].read_text())
    assert list(data["variants"]) == list(VARIANTS)
    for found in data["variants"].values():
        assert [len(values) for values in found["AG"].values()] == [2, 2]
        assert found["best"]["weight"] in (0.3, 1.0)
    assert variants.markdown(data) == written["table"] == written["markdown"].read_text().rstrip("\n")
    assert all(f"| {name} " in written["table"] for name in VARIANTS)


def test_the_comparison_repeats_itself(written, tmp_path):
    """The same seeds give the same files."""
    again = RUN(tmp_path)
    assert again["json"].read_bytes() == written["json"].read_bytes()


def test_variants_differ_in_the_option_that_they_are_named_for():
    """Each name's options reach OEU: without projection the residual is the cosine itself, with it zero."""
    case = engine.prepare(0, QUICK)
    reports = {}
    for name, options in VARIANTS.items():
        settings = baselines.Settings(0.1, 0.3)
        reports[name] = engine.forget(case, "oeu", settings, 1, options=tuple(options.items()))[1][0]
    assert reports["no projection"].residual == pytest.approx(reports["no projection"].cosine, abs=1e-6)
    assert abs(reports["module, undo"].residual) < 1e-5 < abs(reports["module, undo"].cosine)
    assert list(reports["global"].layer_cosines) == ["global"]
    assert "layers.0.weight" in reports["tensor, undo"].layer_cosines
    assert reports["joint forward"].forget_loss != reports["module, undo"].forget_loss


def test_a_run_that_diverges_is_counted_not_hidden(monkeypatch, tmp_path):
    """A diverged run is null in the JSON, and the table says how many there were."""
    forget, diverged = engine.forget, []

    def sometimes(case, name, settings, steps, on_step=None, options=()):
        if options == (("granularity", "global"),) and case.seed == 1 and not diverged:
            diverged.append(True)
            raise NonFiniteError("diverged")
        return forget(case, name, settings, steps, on_step, options)

    monkeypatch.setattr(engine, "forget", sometimes)
    written = RUN(tmp_path)
    assert json.loads(written["json"].read_text())["variants"]["global"]["AG"][variants.COLUMNS[0]][0] is None
    assert "(1 diverged)" in written["table"]
