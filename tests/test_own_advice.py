"""`suggest`: settings found on one's own network and data, without Retrain."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oeu_ref import OEU, evaluate, suggest, unlearn
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.own import advice

from .test_own import FORMS, PARTS, network

DATA = {part: PARTS[part] for part in ("forget", "retain", "unseen")}
ELSEWHERE = OEU(other := nn.Linear(3, 4), torch.optim.SGD(other.parameters(), 0.1))  # around a network of its own
SMALL = {"learning_rates": (0.3, 0.01), "betas": (1.0, 3.0), "steps": (2, 5), "progress": False}


def test_a_suggestion_is_the_least_proxy_gap_of_the_runs_that_unlearn_makes():
    """Each point's gap is what `evaluate` says after `unlearn` with these settings; the network is as it was."""
    model = network()
    before, known = copy.deepcopy(model.state_dict()), evaluate(model, test=PARTS["test"], **DATA)
    found = suggest(model, **DATA, **SMALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training
    assert [point[:3] for point in found.points] == [
        [rate, beta, steps] for rate in (0.01, 0.3) for beta in (1.0, 3.0) for steps in (2, 5)
    ]
    gaps = []
    for rate, beta, steps, gap in found.points:
        copied = copy.deepcopy(model)
        unlearner = OEU(copied, torch.optim.SGD(copied.parameters(), rate, momentum=0.9), beta=beta)
        unlearn(unlearner, DATA["forget"], DATA["retain"], steps, progress=False)
        gaps.append(evaluate(copied, test=PARTS["test"], **DATA, before=known).proxy_gap)
        assert gap == round(gaps[-1], 2)
    assert found.gap == pytest.approx(min(gaps)) and gaps.index(min(gaps)) == found.points.index(
        [found.learning_rate, found.beta, found.steps, round(found.gap, 2)]
    )
    assert found.start == evaluate(model, test=PARTS["test"], **DATA, before=known).proxy_gap


@pytest.mark.parametrize("form", FORMS)
def test_data_may_come_in_any_form(form):
    """What can be passed through once only is kept, for all runs."""
    found = suggest(network(), **{part: FORMS[form](samples) for part, samples in DATA.items()}, **SMALL)
    assert len(found.points) == 8 and None not in [gap for *_, gap in found.points]


def test_other_methods_and_optimizers_are_made_by_a_function():
    """Rate and beta are what the function makes of them; one that diverges is no suggestion, all are an error."""
    asked = []

    def make(model, rate, beta):
        asked.append((rate, beta))
        return OEU(model, torch.optim.SGD(model.parameters(), rate), beta=beta)

    plain = nn.Linear(3, 4)
    found = suggest(plain, **DATA, **{**SMALL, "learning_rates": (0.01, 1e38)}, make=make)
    assert sorted(set(asked)) == [(0.01, 1.0), (0.01, 3.0), (1e38, 1.0), (1e38, 3.0)]
    assert found.learning_rate == 0.01 and [gap for rate, *_, gap in found.points if rate == 1e38] == [None] * 4
    assert "diverged" in str(found)
    with pytest.raises(NonFiniteError, match="learning_rates must hold one"):
        suggest(plain, **DATA, **{**SMALL, "learning_rates": (1e38,)}, make=make)


def test_dropout_and_a_loaders_order_are_drawn_alike_for_all_pairs_and_each_time():
    """Else pairs would differ by luck too, and a second call by that alone; the caller's own draws are left alone."""
    retain = TensorDataset(PARTS["retain"].inputs, PARTS["retain"].labels)
    data = {**DATA, "retain": DataLoader(retain, batch_size=8, shuffle=True)}
    model, state = nn.Sequential(network(), nn.Dropout(0.5)), torch.get_rng_state()
    found = [suggest(model, **data, **SMALL) for _ in range(2)]
    assert found[0].points == found[1].points and torch.equal(torch.get_rng_state(), state)
    seen = []
    suggest(model, **data, **{**SMALL, "learning_rates": (1e-9,)}, make=lambda *given: Seen(seen, *given))
    assert len(seen) == 2 * 5 and seen[:5] == seen[5:]
    assert suggest(model, **data, **SMALL, seed=1).points != found[0].points


class Seen(OEU):
    """Notes what the network makes of its first batches."""

    def __init__(self, seen, model, rate, beta):
        super().__init__(model, torch.optim.SGD(model.parameters(), rate))
        self.seen = seen

    def plan(self, *batches):
        """As `OEU.plan`."""
        plan = super().plan(*batches)
        self.seen.append((plan.report.retain_loss, plan.report.forget_loss))
        return plan


def test_the_table_and_the_picture_show_the_best_of_each_pair(tmp_path):
    points = [[0.1, 1.0, 5, 9.0], [0.1, 1.0, 10, 4.0], [0.1, 3.0, 5, None], [0.1, 3.0, 10, None]]
    found = advice.Suggestion(0.1, 1.0, 10, 4.0, 20.0, points)
    head, first, second, last = str(found).splitlines()
    assert first.split() == ["0.1", "1", "10", "4.0"] and second.split()[-1] == "diverged" and "20.0" in last
    texts = [text.get_text() for text in found.plot(tmp_path / "grid.png").axes[0].texts]
    assert texts == ["4.0\n10", "diverged"] and (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"model": None}, TypeError, "model must be a torch.nn.Module"),
        ({"forget": PARTS["forget"].inputs}, TypeError, "forget must come with labels"),
        ({"unseen": 3}, TypeError, "unseen must be Samples"),
        ({"learning_rates": ()}, ValueError, "learning_rates must hold at least one value"),
        ({"learning_rates": (0.1, 0)}, ValueError, "learning_rates must be greater than 0"),
        ({"betas": (-1,)}, ValueError, "betas must be finite and at least 0"),
        ({"steps": (0,)}, ValueError, "steps must be at least 1"),
        ({"steps": 5}, TypeError, "steps must be"),
        ({"make": 3}, TypeError, "make must be a function"),
        ({"make": lambda model, rate, beta: nn.Linear(3, 4)}, TypeError, "unlearner must be an OEU"),
        ({"make": lambda *given: ELSEWHERE}, ValueError, "make must return a method of the network that it is given"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_suggest_names_what_is_wrong(bad, error, words):
    with pytest.raises(error) as caught:
        suggest(**{"model": network(), **DATA, **SMALL, **bad})
    assert type(caught.value) is error and words in str(caught.value)
