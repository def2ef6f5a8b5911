"""The mark by which the folder is asked for, and images small enough to run a study on."""

import pathlib

import numpy as np
import pytest

from oeu_ref.lab import tables
from oeu_ref.lab.cells import Runner

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.studies)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny(out, **changes): (`Experiment`, `Runner` in that folder) of random images, labels 0 to 2 by chance."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 160), ("test", 40)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
        arrays[f"y_{part}"] = generator.integers(0, 3, count)
    np.savez(root / "tiny.npz", **arrays)
    source = {"data_root": str(root), "cache_dir": None, "download": False}
    sizes = {"dataset": "tiny", "train_size": 100, "validation_size": 40, "test_size": 40, "width": 2, "epochs": 1}

    def made(out, **changes):
        experiment = tables.experiment_named("cifar10-10", "cpu", **{**sizes, **changes})
        return experiment, Runner(out, source, progress=False)

    return made
