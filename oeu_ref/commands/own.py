"""The commands on one's own network and data. PyTorch is imported when one runs."""

import dataclasses
import importlib
import io
import os
import pathlib
import sys

from .. import boundary, files, locks
from ..lab import options
from ..lab.options import NEEDED, option
from .command import Command, check_writable, say

# what errors about data name, and this command has not
SAID = {
    "--data-root": "--data",
    "data_root": "--data",
    "pass --download to fetch it": "put one of them there",
    "; --image-size sets one": "",
}
WRITTEN = ("report.json", "report.md", "curve.png", "unlearned.pt")
MODEL = "a function without arguments that builds the network, floats in [0, 1] in, logits out; its code is run"


def built(model, checkpoint):
    """The network of MODULE:FUNCTION with the weights of a file, in eval mode.  Raises ValueError that names which."""
    import torch

    from ..lab.checkpoints import UNREADABLE

    module, _, function = model.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        network = getattr(importlib.import_module(module), function)()
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, or leave
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"--model must be MODULE:FUNCTION that builds a network, {model!r}: {reason}") from None
    boundary.instance("--model", network, torch.nn.Module, "function that returns a torch.nn.Module")
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network.load_state_dict(saved.get("state_dict", saved))
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint must be the network's state_dict, {checkpoint}: {reason}") from None
    return network.eval()


def check_fits(network, images):
    """Raise ValueError unless the network makes something of images (N, C, H, W)."""
    import torch

    from ..own.sources import device_of

    try:
        with torch.no_grad():
            network(images.to(device_of(network)))
    except Exception as error:  # a stranger's code may raise anything
        shape, reason = " x ".join(map(str, images.shape[1:])), " ".join(str(error).split())[:200]
        raise ValueError(f"--model must build a network for images of {shape}, as --data has them: {reason}") from None


@options.record
class Unlearn(Command):
    """Lets OEU forget images that a network of your own was trained on, until they look like images that it never saw;
    writes OUT/unlearned.pt (its state_dict), report.json, report.md and curve.png. Half the test images of each class
    tell when to stop, the others judge."""

    called = {"max_steps": "--steps", "classes": "--forget-classes", "indices": "--forget-classes or --forget-file"}
    line = "forget images with a network of your own: a verdict, a table and a picture"
    example = "--model my_networks:build --checkpoint net.pt --data data/mine --forget-classes cat --out results/mine"
    model: str = option(NEEDED, MODEL, "MODULE:FUNCTION", "my_networks:build")
    checkpoint: str = option(NEEDED, "its state_dict, as torch.save wrote it", "FILE", "net.pt")
    data: str = option(NEEDED, "its data: a .npz, or a folder train/CLASS/... and test/CLASS/...", "PATH", "data/mine")
    forget_classes: tuple[int | str, ...] | None = option(
        None, "whole classes to forget", example="cat,5", unset="none"
    )
    forget_file: str | None = option(
        None, "or training images: a text file, an index from 0 in each line", "FILE", "forget.txt", "none"
    )
    out: str = option("results/unlearn", "folder for results, made when there are some", "DIR")
    learning_rate: float = option(0.01, "of SGD with momentum 0.9, > 0", example=0.03)
    beta: float = option(0.3, "weight of forgetting, >= 0")
    steps: int = option(200, "at most so many, >= 0")
    suggest: bool = option(False, "search learning rate, beta and steps first, without Retrain")
    recalibrated: bool = options.recalibrated()
    seed: int = option(0, "of the order of images, >= 0")
    device: str = options.device()

    def where(self):
        return self.out

    def run(self):
        import torch

        from ..core.unlearner import OEU
        from ..own.advice import suggest
        from ..own.evaluation import evaluate
        from ..own.sources import Bytes
        from ..own.unlearning import unlearn
        from .experiments import checked_device

        out = pathlib.Path(self.out)
        for name in WRITTEN:
            check_writable("--out", out / name, self.checkpoint, self.data, self.forget_file)
        boundary.positive("learning_rate", self.learning_rate)
        network = Bytes(built(self.model, self.checkpoint)).to(checked_device(self.device))
        parts = self.parts()
        check_fits(network, parts["test"].inputs[:2])
        settings = {"learning_rate": self.learning_rate, "beta": self.beta, "steps": self.steps}
        how = {"recalibrated": self.recalibrated, "seed": self.seed}
        shown = []
        data = {name: parts[name] for name in ("forget", "retain", "unseen")}
        if self.suggest:
            found = suggest(network, **data, **how)
            settings = {name: getattr(found, name) for name in settings}
            shown = [found, ""]
        optimizer = torch.optim.SGD(network.parameters(), settings["learning_rate"], momentum=0.9)
        unlearner = OEU(network, optimizer, beta=settings["beta"])
        run = unlearn(unlearner, **data, max_steps=settings["steps"], **how)
        found = evaluate(network, **parts, before=run.before, seed=self.seed)
        text = "\n".join(map(str, [*shown, run, "", found]))
        with locks.alone(self.out):
            content = {"verdict": run.verdict, "status": run.status, "settings": settings, "looks": run.looks}
            files.write_json(out / "report.json", {**content, "evaluation": dataclasses.asdict(found)})
            files.write_text(out / "report.md", f"```\n{text}\n```\n")
            run.plot(out / "curve.png")
            torch.save(network.network.state_dict(), weights := io.BytesIO())
            files.write_bytes(out / "unlearned.pt", weights.getvalue())
        say(text, "", *(out / name for name in WRITTEN))
        return 0

    def parts(self):
        """{"forget", "retain", "unseen", "test": `Samples`} of the data, as asked."""
        from ..data.image_sets import load_images
        from ..data.requests import class_numbers, indices_of_file
        from ..data.samples import Samples, class_indices, split_at

        if (self.forget_classes is None) == (self.forget_file is None):
            raise ValueError("--forget-classes or --forget-file must be given, one of them")
        path = pathlib.Path(self.data).absolute()
        try:
            images = load_images(path.name, path.parent)
        except ValueError as error:
            text = str(error)
            for said, here in SAID.items():
                text = text.replace(said, here)
            raise ValueError(text) from None
        train, test = Samples(images.train_images, images.train_labels), Samples(images.test_images, images.test_labels)
        if self.forget_file is not None:
            wanted = indices_of_file(self.forget_file, len(train)).unique()
        else:
            wanted = class_indices(train.labels, class_numbers(self.forget_classes, images.classes))
        forget, retain, _ = split_at(train, wanted)
        by_class = test.labels.argsort(stable=True)  # as classes may take turns in a file
        return {"forget": forget, "retain": retain, "unseen": test[by_class[::2]], "test": test[by_class[1::2]]}
