"""Files from elsewhere run no code and reach no other place; the package's source keeps to what this needs."""

import ast
import hashlib
import io
import os
import pathlib
import pickle
import re
import struct
import tarfile
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

import oeu_ref
from oeu_ref.data import archives, published
from oeu_ref.data.image_sets import load_images
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.report import results

from . import intruders

PACKAGE = pathlib.Path(oeu_ref.__file__).parent
# calls that run what a text or a file says, or that hand text to a shell; of loading functions those without the word
FORBIDDEN = re.compile(
    r"(builtins\.)?(eval|exec|compile|__import__)|os\.(system|popen|exec\w+|spawn\w+)|(\w+\.)*Unpickler(\.load)?"
    r"|(c?pickle|marshal|dill|cloudpickle|joblib|shelve|runpy|code|yaml)\.\w*(load|open|run|interact)\w*"
    r"|importlib\.\S+|subprocess\.get\w+"
)
WORDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
# and where one is needed all the same
ALLOWED = {
    ("__init__.py", "importlib.import_module"): "one of our own modules, from a list",
    ("commands/studies.py", "importlib.import_module"): "one of our own modules, from a list",
    ("commands/own.py", "importlib.import_module"): "--model runs the code that builds the user's network, by design",
    ("judging/implementation.py", "importlib.import_module"): "--impl and check run other people's code, by design",
    ("judging/implementation.py", "importlib.util.spec_from_file_location"): "the same, of a file",
    ("judging/implementation.py", "importlib.util.module_from_spec"): "the same, of a file",
}


def test_no_intruder_gets_in(tmp_path):
    """Each malicious file is refused by a ValueError; its code is not run; nothing appears outside its folder."""
    found = intruders.refused(tmp_path)
    assert len(found) >= 25
    assert {name: verdict for name, verdict in found.items() if verdict != "refused"} == {}


def test_the_intruder_works_where_nothing_stops_it(tmp_path):
    assert intruders.control(tmp_path)
    intruder = intruders.Intruder(tmp_path / "inner")
    (tmp_path / "inner").mkdir()
    torch.save({"notes": intruder}, tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "inner" / intruders.MARK).exists()


def test_harmless_twins_of_the_archives_are_unpacked(tmp_path):
    """What is refused above is refused for its intruder, not for the way that it was built."""
    for name in ("tar", "zip"):
        folder = tmp_path / name
        folder.mkdir()
        getattr(intruders, f"_{name}")(folder, name="data/deep/inside")
        assert (folder / "data" / "fine").read_bytes() == b"fine"
        assert b"outside" in (folder / "data" / "deep" / "inside").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_archive_is_named(tmp_path, content):
    for name in ("a.zip", "a.tar.gz"):
        path = tmp_path / name
        if content is None:
            with zipfile.ZipFile(path, "w") if name.endswith("zip") else tarfile.open(path, "w:gz"):
                pass
        else:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} must (be an archive|hold the folder)"):
            archives.unpack(path, tmp_path, "data")


def read_batch(folder, content):
    """What is read from a data set all of whose files have this content and its MD5."""
    md5, names = hashlib.md5(content).hexdigest(), ("data_batch_1", "test_batch", "batches.meta")
    for name in names:
        (folder / name).write_bytes(content)
    lists = {"train_list": [[names[0], md5]], "test_list": [[names[1], md5]]}
    with mock.patch.multiple(CIFAR10, **lists, meta={"filename": names[2], "key": "names", "md5": md5}):
        return published.PUBLISHED["cifar10"].read(folder)


def test_a_batch_as_python_2_and_numpy_1_wrote_it_is_read(tmp_path):
    """The authors' files are of 2009: protocol 2, strings of bytes, and NumPy's names of that time."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    short = lambda text: b"U" + bytes([len(text)]) + text
    dtype = b"cnumpy\ndtype\n(" + short(b"u1") + b"K\x00K\x01tR(K\x03" + short(b"|")
    dtype += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + short(b"b") + b"tR"
    array += b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    labels, names = b"](K\x01K\x00e", b"](" + short(b"cat") + short(b"dog") + b"e"
    content = b"\x80\x02}(" + short(b"data") + array + short(b"labels") + labels + short(b"names") + names + b"u."
    found = read_batch(tmp_path, content)
    assert np.array_equal(found["x_train"], pixels.reshape(2, 3, 32, 32))
    assert found["y_test"].tolist() == [1, 0] and found["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("thing", [os.system, eval, np.load, pickle.Unpickler, torch.load, type, getattr])
def test_nothing_that_could_be_called_is_looked_up(thing, protocol):
    with pytest.raises(pickle.UnpicklingError, match="is not looked up"):
        published.PlainUnpickler(io.BytesIO(pickle.dumps(thing, protocol))).load()


def test_a_batch_that_is_no_dict_is_named(tmp_path):
    with pytest.raises(ValueError, match="data_batch_1 must hold a dict, got list"):
        read_batch(tmp_path, pickle.dumps([], protocol=4))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_in_a_checkpoint_is_noticed_wherever_it_is(tmp_path, share):
    """PyTorch takes it for a weight: it reads past the checksums (the control)."""
    checkpoint = Checkpoint(tmp_path / "a.pt", {})
    checkpoint.save(weights=torch.arange(20_000.0))
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[int(share * len(content))] ^= 64
    (tmp_path / "a.pt").write_bytes(content)
    read = torch.load(tmp_path / "a.pt", weights_only=True)["state"]["weights"]
    assert (read != torch.arange(20_000.0)).sum() == 1
    with pytest.raises(ValueError, match="a.pt must be a checkpoint.*the checksum of .* is wrong"):
        checkpoint.restore()


def test_a_checkpoint_damaged_anywhere_is_an_error_in_words_or_says_the_same(tmp_path):
    """Two hundred random bytes changed, one at a time: never another exception, never other weights."""
    checkpoint, rng = Checkpoint(tmp_path / "a.pt", {"seed": 1}), np.random.default_rng(0)
    checkpoint.save(weights=torch.arange(50.0))
    whole, refused = (tmp_path / "a.pt").read_bytes(), 0
    for _ in range(200):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "a.pt").write_bytes(content)
        try:
            assert torch.equal(checkpoint.restore()["weights"], torch.arange(50.0))
        except ValueError as error:
            assert "a.pt must be a checkpoint" in str(error)
            refused += 1
    assert refused > 100


def test_what_is_no_zip_file_never_reaches_pytorch(tmp_path, monkeypatch):
    """Versions before 2.6, which we allow, run code of tar files in spite of weights_only (CVE-2025-32434)."""
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("it was handed on"))
    intruder = intruders.INTRUDERS["checkpoint in a tar file"]
    with pytest.raises(ValueError, match="it is no zip file"):
        intruder(tmp_path)


def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path):
    torch.save({"format": "oeu_ref checkpoint 1", "state": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it lacks identity, notes"):
        Checkpoint(tmp_path / "a.pt", {}).restore()


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_damaged_anywhere_is_an_error_in_words_or_says_the_same(tmp_path, compressed):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (4, 6, 6), dtype=np.uint8), "y_train": np.array([0, 1, 0, 1])}
    arrays |= {"x_test": rng.integers(0, 256, (2, 6, 6), dtype=np.uint8), "y_test": np.array([0, 1])}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "mine.npz", **arrays)
    whole, digest, refused = (tmp_path / "mine.npz").read_bytes(), load_images("mine", tmp_path).sha256, 0
    for _ in range(200):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "mine.npz").write_bytes(content)
        try:
            assert load_images("mine", tmp_path).sha256 == digest
        except ValueError as error:
            assert "mine.npz" in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["a", "a/b.json", "./a", "seed-1/../a"])
def test_files_inside_a_folder_may_be_named(tmp_path, name):
    assert results.inside(tmp_path, name) == tmp_path / name


def test_a_link_that_leads_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="must lie in the folder of the document"):
        results.inside(tmp_path / "inside", "link/secret.json")


def test_names_from_data_are_shown_in_markdown_not_obeyed():
    text = "a|b\n# c <script> [x](y) `z` *bold*"
    assert results.escaped(text) == r"a\|b \# c \<script\> \[x\](y) \`z\` \*bold\*"
    summary = {"m": {"FA": {"mean": 1.0, "spread": None}}}
    table = results.table(summary, {"m": "one|two\n| three"}, ("FA",))
    assert len(table.splitlines()) == 3 and table.splitlines()[2].replace(r"\|", "").count("|") == 3


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_files_get_the_users_own_permissions_and_no_other_file_is_written_through_a_link(tmp_path):
    from oeu_ref import files, locks

    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to(tmp_path / "precious")
    files.write_text(tmp_path / "a.txt", "x")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="out must be a directory that can be written to"), locks.alone(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


# The source


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else dotted(node.func) if isinstance(node, ast.Call) else ""


def offences(tree):
    """(line, call) for each call that could run code that is not ours."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, words = dotted(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        word, safe = WORDS.get(name, (None, None))
        if FORBIDDEN.fullmatch(name) or (word and words.get(word) is not safe) or words.get("shell"):
            yield node.lineno, name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_runs_text_or_files_but_where_a_reason_is_given(path):
    file = path.relative_to(PACKAGE).as_posix()
    found = offences(ast.parse(path.read_text(encoding="utf-8")))
    assert [(line, name) for line, name in found if (file, name) not in ALLOWED] == []


def test_every_reason_is_still_needed():
    for file, name in ALLOWED:
        assert name in [found for _, found in offences(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))], name


@pytest.mark.parametrize(
    "line",
    [
        *("pickle.load(f)", "eval(x)", "exec(x)", "os.system(x)", "os.popen(x)", "torch.load(f)", "np.load(f)"),
        *("subprocess.run(x, shell=True)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)"),
        *(
            "joblib.load(f)",
            "yaml.unsafe_load(f)",
            "pickle.Unpickler(f)",
            "__import__(x)",
            "pickle.Unpickler(f).load()",
        ),
    ],
)
def test_the_search_finds_each_kind(line):
    """The control of the test above."""
    assert list(offences(ast.parse(line)))


def test_pickle_is_imported_by_two_files_alone():
    """Its exceptions by the checkpoints, its unpickler by CIFAR's reader."""
    using = [path for path in PACKAGE.rglob("*.py") if "import pickle" in path.read_text(encoding="utf-8")]
    assert sorted(path.name for path in using) == ["checkpoints.py", "published.py"]
