"""Good files and bad ones, each under a name that says what is wrong with it."""

import io
import json
import zipfile

import numpy as np
import torch
from PIL import Image

from oeu_ref.lab import checkpoints, tables, tuning
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.report import results
from oeu_ref.vectors import make


def write_files(files, checkpoint, model):
    """Write all of them into a new folder; checkpoint: where the good one of the model goes."""
    rng = np.random.default_rng(0)
    files.mkdir(parents=True)
    (files / "folder").mkdir()
    (files / "out").mkdir()
    (files / "out" / ".lock").touch()  # left by every run, and found by the next
    (files / "notes.txt").write_text("not what was expected\n")
    (files / "empty.txt").write_text("")
    (files / "binary.txt").write_bytes(b"\x80\x81\xff\xfe")
    (files / "indices.txt").write_text("1\n2\n99999\n")
    (files / "words.txt").write_text("one\ntwo\n")
    (files / "all.txt").write_text("\n".join(map(str, range(60))))
    arrays = {
        "x_train": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(20) % 3,
    }
    for name, changes in _BAD_ARRAYS.items():
        changed = {**arrays, **{key: change(arrays[key]) for key, change in changes.items() if change}}
        np.savez(files / f"{name}.npz", **{key: value for key, value in changed.items() if changes.get(key, 1)})
    whole = (files / "tiny.npz").read_bytes()
    (files / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    (files / "zero.npz").write_bytes(b"")
    (files / "garbled.npz").write_bytes(whole.replace(b"x_train.npy", b"x_tra\x00n.npy"))
    (files / "flipped.npz").write_bytes(_flipped(whole, len(whole) // 3))
    (files / "json.npz").write_text("{}")
    (files / "declared.npz").write_bytes(_declared_npz())
    _write_image_folders(files)
    checkpoint.save(model=model)
    good = (files / "good.pt").read_bytes()
    (files / "truncated.pt").write_bytes(good[:-200])
    weight = next(model.parameters()).detach().numpy().tobytes()
    (files / "flipped.pt").write_bytes(_flipped(good, good.index(weight)))
    (files / "zero.pt").write_bytes(b"")
    torch.save(model.state_dict(), files / "state.pt")
    torch.save({"format": checkpoints.FORMAT}, files / "bare.pt")
    Checkpoint(files / "plain.pt", {"run": 1}).save(model=[1, 2, 3])
    for name, content in _JSON.items():
        (files / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    for folder, content in {"listed": "[1, 2]", "broken": "{", "lost": json.dumps(_DOCUMENT)}.items():
        (files / folder).mkdir()
        (files / folder / "table.json").write_text(content)
    (files / "tuned").mkdir()
    (files / "tuned" / "tuning.json").write_text('{"grid": {}}')
    case = make.build("kl_to_uniform")["cases"][0]["name"]
    for name, content in _ANSWERS.items():
        (files / f"answers-{name}").mkdir()
        (files / f"answers-{name}" / "kl_to_uniform.json").write_bytes(content.replace(b"CASE", case.encode()))
    for name, text in _MODULES.items():
        (files / f"{name}.py").write_text(text)


def _flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


def _declared_npz():
    """A file of 1 kB that says that it holds 10^15 bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**6)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(100))
    return buffer.getvalue()


def _write_image_folders(files):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    wide = Image.fromarray(np.zeros((8, 9, 3), np.uint8))
    layouts = {
        "pictures": ("train/a/1.png", "train/b/1.png", "test/a/1.png"),
        "no_test": ("train/a/1.png", "train/b/1.png"),
        "one_class": ("train/a/1.png", "test/a/1.png"),
        "new_class": ("train/a/1.png", "train/b/1.png", "test/c/1.png"),
        "sizes": ("train/a/1.png", "train/b/wide.png", "test/a/1.png"),
        "text": ("train/a/1.png", "train/b/text.png", "test/a/1.png"),
        "cut": ("train/a/1.png", "train/b/cut.png", "test/a/1.png"),
        "without": ("train/a/1.png", "train/b/", "test/a/1.png"),
        "untested": ("train/a/1.png", "train/b/1.png", "test/a/"),
    }
    for folder, names in layouts.items():
        for name in names:
            path = files / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            elif name.endswith("text.png"):
                path.write_text("no image")
            else:
                (wide if name.endswith("wide.png") else image).save(path)
                if name.endswith("cut.png"):
                    path.write_bytes(path.read_bytes()[:40])


# name -> {array: how it is changed, None: left out}
_BAD_ARRAYS = {
    "tiny": {},
    "lacking": {"y_test": None},
    "floats": {"x_train": lambda a: a / 255},
    "rank": {"x_train": lambda a: a.reshape(60, -1)},
    "channels": {"x_train": lambda a: np.repeat(a, 2, axis=3)[..., :5]},
    "count": {"y_train": lambda a: a[:-1]},
    "nobody": {"x_test": lambda a: a[:0], "y_test": lambda a: a[:0]},
    "negative": {"y_train": lambda a: a - 1},
    "halves": {"y_train": lambda a: a / 2},
    "two columns": {"y_train": lambda a: a.reshape(-1, 2)},
    "small": {"x_test": lambda a: a[:, :4]},
    "skipped": {"y_train": lambda a: a * 2},
    "single_class": {"y_train": lambda a: a * 0, "y_test": lambda a: a * 0},
    "swapped": {"x_train": lambda a: np.arange(60), "y_train": lambda a: np.zeros((60, 8, 8, 3), np.uint8)},
    "strings": {"y_train": lambda a: a.astype(str)},
}
_DOCUMENT = {
    "kind": "table",
    "name": "",
    "experiment": {},
    "seeds": [1],
    "settings": {},
    "original": ["seed-1/original.json"],
    "retrain": ["seed-1/retrain.json"],
    "rows": [],
}
_TUNING = results.read_json(tables.SETTINGS_FILE)
_JSON = {
    "list": [1, 2],
    "broken": "{",
    "deep": "[" * 100_000,
    "settings-empty": {},
    "settings-list": [1],
    "settings-no-method": {**_TUNING, "rules": {"true": {}, "proxy": {}}},
    "settings-rules": {**_TUNING, "rules": [1, 2]},
    "settings-best": {**_TUNING, "rules": {rule: {"oeu": {"best": {"weight": 1}}} for rule in tuning.RULES}},
    "settings-rate": {
        **_TUNING,
        "rules": {r: {"oeu": {"best": {"learning_rate": -1, "weight": 1, "steps": 5}}} for r in tuning.RULES},
    },
    "settings-steps": {
        **_TUNING,
        "rules": {r: {"oeu": {"best": {"learning_rate": 1, "weight": 1, "steps": "5"}}} for r in tuning.RULES},
    },
}
_ANSWERS = {
    "none": b'{"results": {}}',
    "broken": b"{",
    "binary": b"\x80\x81\xff\xfe",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "dtype": b'{"dtype": "float16", "results": {}}',
    "unhashable": b'{"dtype": [], "results": {}}',
    "swapped": b'{"operation": "project", "results": {}}',
    "words": b'{"results": "all right"}',
    "huge": b'{"results": {"CASE": {"kl": 1%s}}}' % (b"0" * 400),
    "shape": b'{"results": {"CASE": {"kl": {"shape": [1000000000000], "data": ["1"]}}}}',
    "nan": b'{"results": {"CASE": {"kl": NaN}}}',
}
_MODULES = {
    "nothing": "x = 1\n",
    "syntax": "def kl_to_uniform(\n",
    "raising": "raise RuntimeError('no good')\n",
    "leaving": "raise SystemExit(0)\n",
    "dtype": "DTYPE = 'float16'\ndef kl_to_uniform(logits): pass\n",
    "mask": "QUANTIZER_MASK = 'strict'\ndef kl_to_uniform(logits): pass\n",
}
