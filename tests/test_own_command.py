"""`oeu-ref unlearn` and `export --model`: a network and data of one's own, from the command line."""

import functools
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from oeu_ref.__main__ import main
from oeu_ref.commands.own import Unlearn
from oeu_ref.integer import file as integer_file
from oeu_ref.integer.agreement import compare
from oeu_ref.own import advice

NETWORK = """
from torch import nn
from oeu_ref import quantize_model


def build():
    layers = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    return quantize_model(nn.Sequential(*layers, nn.Linear(6 * 64, 3)), 4, 4)


def leaving():
    raise SystemExit(0)


def number():
    return 3


def grey():
    return nn.Conv2d(1, 3, 8)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module that builds a network, weights of it, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    (tmp_path / "own_networks.py").write_text(NETWORK)
    rng, arrays = np.random.default_rng(0), {"classes": np.array(["cat", "dog", "owl"])}
    for part, count in (("train", 60), ("test", 24)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 128, (count, 8, 8, 3)) + 60 * labels[:, None, None, None]
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(tmp_path / "mine.npz", **arrays)
    import own_networks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = own_networks.build()
        network(torch.rand(16, 3, 8, 8))  # its quantizers see a batch
        torch.save(network.state_dict(), tmp_path / "net.pt")
    torch.save(own_networks.grey().state_dict(), tmp_path / "grey.pt")
    return tmp_path


GIVEN = {
    "--model": "own_networks:build",
    "--checkpoint": "net.pt",
    "--data": "mine.npz",
    "--forget-classes": "dog",
    "--out": "results/mine",
    "--steps": "3",
    "--device": "cpu",
}


def unlearn(*flags, **changes):
    options = {**GIVEN, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return main(["unlearn", *(word for pair in options.items() if pair[1] is not None for word in pair), *flags])


def test_a_network_of_ones_own_forgets_a_class(place, capsys):
    """A verdict, a table, JSON, a picture, and weights that the network takes and that are others."""
    assert unlearn() == 0
    out, folder = capsys.readouterr().out, place / "results/mine"
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"] in out and report["status"] in ("budget spent", "gave up", "reached")
    assert report["settings"] == {"learning_rate": 0.01, "beta": 0.3, "steps": 3}
    found = report["evaluation"]
    assert found["samples"] == {"forget": 20, "retain": 40, "test": 8, "unseen": 12, "test_of_forgotten": 4}
    assert list(found["per_class"]) == ["1"] and found["proxy_gap"] is not None and "proxy AG" in out
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"
    before, after = (torch.load(path, weights_only=True) for path in (place / "net.pt", folder / "unlearned.pt"))
    assert list(before) == list(after) and not torch.equal(before["0.weight"], after["0.weight"])
    # and what it left is exported, as the integer network of the same weights
    words = [
        "export",
        "results/mine/unlearned.pt",
        "--model",
        "own_networks:build",
        "--image-size",
        "8",
        "--out",
        "n.npz",
    ]
    assert main(words) == 0 and "2 quantized layers" in capsys.readouterr().out
    import own_networks

    network = own_networks.build().eval()
    network.load_state_dict(after)
    images = torch.from_numpy(np.load("mine.npz")["x_test"]).permute(0, 3, 1, 2)
    assert compare(network, integer_file.read("n.npz"), images).predictions_differing == 0


def test_images_by_their_number_and_a_search_first(place, capsys, monkeypatch):
    """Settings are those that the search found, on a copy; its table stands before the verdict."""
    small = {"learning_rates": (0.02,), "betas": (0.5,), "steps": (1, 2)}
    monkeypatch.setattr(advice, "suggest", functools.partial(advice.suggest, **small))
    (place / "forget.txt").write_text("0 4\n8")
    assert unlearn("--suggest", forget_classes=None, forget_file="forget.txt") == 0
    report = json.loads((place / "results/mine/report.json").read_text())
    assert report["settings"]["learning_rate"] == 0.02 and report["settings"]["steps"] in (1, 2)
    assert report["evaluation"]["samples"]["forget"] == 3 and "proxy AG" in capsys.readouterr().out.splitlines()[0]


def test_a_network_of_ones_own_needs_a_size_for_export(place, capsys):
    assert main(["export", "net.pt", "--model", "own_networks:build", "--out", "n.npz"]) == 2
    assert "--image-size must be given with --model" in capsys.readouterr().err
    assert main(["export", "mine.npz", "--model", "own_networks:build", "--image-size", "8", "--out", "n.npz"]) == 2
    assert "FILE must be the network's state_dict" in capsys.readouterr().err and not (place / "n.npz").exists()


def test_unseen_and_test_images_are_halves_of_each_class_in_whichever_order_they_come(place):
    arrays = dict(np.load("mine.npz"))
    arrays["y_test"] = np.arange(24) % 2 + (np.arange(24) >= 20)  # classes take turns; the last one is rare
    np.savez("mine.npz", **arrays)
    parts = Unlearn(**{name: "" for name in ("model", "checkpoint")}, data="mine.npz", forget_classes=("dog",)).parts()
    counts = {name: parts[name].labels.bincount().tolist() for name in ("unseen", "test")}
    assert counts == {"unseen": [5, 6, 1], "test": [5, 6, 1]}
    both = torch.cat([parts[name].inputs for name in counts]).flatten(1).tolist()
    assert sorted(both) == sorted(arrays["x_test"].transpose(0, 3, 1, 2).reshape(24, -1).tolist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forget_classes": None}, "--forget-classes or --forget-file must be given"),
        ({"forget_classes": "cow"}, "--forget-classes must be names or numbers of classes, got 'cow'"),
        ({"model": "own_networks:nothing"}, "--model must be MODULE:FUNCTION that builds a network"),
        ({"model": "own_networks:number"}, "--model must be a function that returns a torch.nn.Module, got int"),
        ({"model": "no_such_module:build"}, "ModuleNotFoundError"),
        ({"model": "own_networks:leaving"}, "SystemExit"),
        ({"model": "own_networks:grey", "checkpoint": "grey.pt"}, "must build a network for images of 3 x 8 x 8"),
        ({"checkpoint": "mine.npz"}, "--checkpoint must be the network's state_dict"),
        ({"checkpoint": "nothing.pt"}, "nothing.pt"),
        ({"data": "nothing"}, "or name another --data\n"),
        ({"data": "nothing/cifar10"}, "; put one of them there, or name another --data\n"),
        ({"data": "sizes"}, "sizes/train/cat/0.png, 8 x 8, got 9 x 8\n"),
        ({"forget_classes": "7"}, "--forget-classes must be classes of the training samples, got 7"),
        ({"forget_classes": "0,1,2"}, "--forget-classes or --forget-file must leave samples to keep, got all"),
        ({"learning_rate": "0"}, "--learning-rate must be greater than 0"),
        ({"beta": "-1"}, "--beta must be"),
        ({"steps": "-1"}, "--steps must be at least 0"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_folder(place, capsys, changes, words):
    """It says what is wrong in the words of this command, which has no --download and no --image-size."""
    for name, width in (("train/cat", 8), ("train/dog", 9), ("test/cat", 8)):
        (place / "sizes" / name).mkdir(parents=True)
        Image.new("RGB", (width, 8)).save(place / "sizes" / name / "0.png")
    assert unlearn(**changes) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.startswith("oeu_ref unlearn: ")
    assert not (place / "results").exists()
