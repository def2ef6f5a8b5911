"""The study of the integer network: its inputs, what it writes, that it repeats itself."""

import json

import numpy as np
import pytest
import torch

from oeu_ref.core import QuantMLP
from oeu_ref.data.samples import digits
from oeu_ref.integer import network as integer
from oeu_ref.lab.study import run as run_study
from oeu_ref.studies import integer as study


def test_the_digits_as_their_own_data_gives_them():
    """Integer logits of the pixels 0 to 16 are the model's logits of the data set's floats."""
    splits = digits(0)
    torch.manual_seed(0)
    model = QuantMLP((64, 32, 10), batch_norm=True)
    model(splits.train.inputs)
    model.eval()
    network = study.integer_network(model)
    logits = integer.real_logits(network, study.integers(splits.test.inputs))
    wanted = model.double()(splits.test.inputs.double()).detach().numpy()
    assert np.abs(logits - wanted).max() < 1e-12
    with pytest.raises(ValueError, match="multiples of 1 / 16"):
        study.integers(splits.test.inputs + 0.01)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return run_study(study, tmp_path_factory.mktemp("integer"), seeds=(1,), quick=True, progress=False)


def test_the_study_is_a_function_of_its_data(measured):
    """The table comes from the JSON alone; each method has its hybrids; integer metrics stand beside PyTorch's."""
    data = json.loads(measured["json"].read_text())
    assert study.markdown(data) == measured["table"] == measured["markdown"].read_text().rstrip("\n")
    for table in measured["table"].split("\n\n")[:3]:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    found = data["runs"][0]
    assert set(found["integer"]) == set(found["pytorch"]) | {
        f"{method} {hybrid}" for method in study.QUICK_METHODS for hybrid in study.HYBRIDS
    }
    assert all(
        total["64-bit values, float64"]["differing"] == 0
        and total["64-bit values, float64"]["predictions_differing"] == 0
        for total in found["agreement"].values()
    )
    for name, metrics in found["pytorch"].items():
        assert all(abs(found["integer"][name][key] - metrics[key]) < 1 for key in study.COLUMNS)
    assert measured["picture"].stat().st_size > 10000


def test_the_study_repeats_itself(measured, tmp_path):
    again = run_study(study, tmp_path, seeds=(1,), quick=True, progress=False)
    for key in ("json", "picture"):
        assert again[key].read_bytes() == measured[key].read_bytes()
