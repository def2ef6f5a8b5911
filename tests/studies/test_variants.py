"""The comparison of OEU's own options."""

import dataclasses
import functools
import json

import pytest
import torch

from oeu_ref.core.unlearner import OEU, NonFiniteError
from oeu_ref.lab import engine, variants
from oeu_ref.lab.experiment import QUICK
from oeu_ref.methods.by_name import VARIANTS
from oeu_ref.methods.method import Settings

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
        assert [len(curve) for curve in found["retain_losses"]] == [variants.POINTS + 1] * 2
        # a run of two steps is at each point of its curve at one of three places, the start and those
        assert all(1 <= len(set(curve)) <= 3 for curve in found["retain_losses"])
    assert variants.markdown(data) == written["table"] == written["markdown"].read_text().rstrip("\n")
    assert all(f"| {name} " in written["table"] for name in VARIANTS)


def test_the_comparison_repeats_itself(written, tmp_path):
    """The same seeds give the same files."""
    again = RUN(tmp_path)
    assert again["json"].read_bytes() == written["json"].read_bytes()


def test_variants_differ_in_the_option_that_they_are_named_for(monkeypatch):
    """Each name's options reach OEU: without projection the residual is the cosine itself, with it zero."""
    case, taken, take = engine.prepare(0, QUICK), [], OEU.take
    monkeypatch.setattr(OEU, "take", lambda self, plan: taken.append(plan) or take(self, plan))
    reports, plans = {}, {}
    for name, options in VARIANTS.items():
        settings = Settings(0.1, 0.3)
        reports[name] = engine.forget(case, "oeu", settings, 1, options=tuple(options.items()))[1][0]
        plans[name] = taken[-1]
    assert plans["no projection"].residual == pytest.approx(reports["no projection"].cosine, abs=1e-6)
    assert abs(plans["module, undo"].residual) < 1e-5 < abs(reports["module, undo"].cosine)
    assert list(reports["global"].layer_cosines) == ["global"]
    assert "layers.0.weight" in reports["tensor, undo"].layer_cosines
    residuals = {name: plans[name].layer_residuals for name in ("no projection", "only under conflict")}
    for layer, cosine in residuals["no projection"].items():
        assert residuals["only under conflict"][layer] == pytest.approx(max(cosine, 0), abs=1e-5)
    assert reports["joint forward"].forget_loss != reports["module, undo"].forget_loss


def test_a_curve_is_the_retain_loss_of_eval_mode_from_start_to_end():
    """The first point is the original's, the last that of the model at the end, statistics as the loop leaves them."""
    for recalibrated in (False, True):
        case = engine.prepare(1, dataclasses.replace(QUICK, recalibrated=recalibrated))
        curve = variants._Curve(case, 2)
        model = engine.forget(case, "oeu", Settings(0.1, 0.3), 2, curve.look)[0]
        for end, network in ((0, case.original), (-1, model)):
            logits = network.eval()(case.splits.retain.inputs).double()
            loss = torch.nn.functional.cross_entropy(logits, case.splits.retain.labels).item()
            assert curve.losses[end] == pytest.approx(loss)


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
