"""What is asked to be forgotten, by class or by index, and what it comes to: all of that, or an error."""

import hashlib
import re
import warnings

import torch

from .archives import read_text
from .folders import composed


def class_numbers(classes, names):
    """Numbers of classes that are given by their names, or by their numbers where no class has that for a name.

    classes: words or integers; names: of all classes, in order.  Returns a list of integers.
    Raises ValueError, with the names that there are, for a word that is neither.
    """
    found, names = [], [composed(name) for name in names]
    for c in classes:
        if names.count(name := composed(str(c))) == 1:
            found.append(names.index(name))
        elif isinstance(c, str) and not re.fullmatch("[0-9]{1,9}", c):
            listed = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(f"forget_classes must be names or numbers of classes, got {c!r}; there are {listed}")
        else:
            found.append(int(c) if isinstance(c, str) else c)
    return found


def indices_of_file(path, count):
    """Indices in a text file, apart by white space or commas; after a # a line says nothing.

    path: of the file; count: of the samples that they are indices of.  Returns (M,) int64, M >= 1.
    Raises ValueError, naming the file and the first word that is wrong.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"forget_file must be a text file with one index in each line, {path}: {error}") from None
    words = re.sub(r"#.*|,", " ", text).split()
    wrong = [word for word in words if not re.fullmatch("0*[0-9]{1,18}", word) or int(word) >= count]
    if wrong or not words:
        raise ValueError(
            f"forget_file must hold indices of training images, 0 to {count - 1}, one in each line, {path} holds "
            f"{wrong[0][:40] if wrong else 'none'!r}"
        )
    return torch.tensor([int(word) for word in words])


def held_out(order, validation_size, train_size, wanted=None):
    """Positions of validation and of training samples, both ascending: in a random order the first and the next ones.

    order: (N,) int64, a permutation; sizes: together at most N; wanted: positions of samples that are to be forgotten,
    all of which are training samples then, whatever the order; None: there are none.
    Returns two int64 tensors.  Raises ValueError for so many wanted that there is none to keep.
    """
    if wanted is not None:
        first = torch.isin(order, wanted)
        if int(first.sum()) >= train_size:
            raise ValueError(
                f"forget_file must leave images to keep, it names {int(first.sum())}, and {train_size} are for training"
            )
        # the wanted ones right behind those for validation: of what is drawn, all else is as it was
        others = order[~first]
        order = torch.cat([others[:validation_size], order[first], others[validation_size:]])
    return order[:validation_size].sort().values, order[validation_size:][:train_size].sort().values


def settle_copies(train, test, indices, forget_too):
    """Exact copies of what is to be forgotten: forgotten too, or counted in a warning.

    train, test: `Samples`, all that there are; indices: {"forget", "retain", "validation": positions in train, "test":
    in test}; forget_too: whether copies in retain are forgotten too, and those in validation and test, which are not
    unseen, left out.
    Returns indices, changed if need be.  Raises ValueError where a part would be empty.
    """
    forgotten = set(contents(train[indices["forget"]]))
    copies = {}
    for part in ("retain", "validation", "test"):
        samples = (test if part == "test" else train)[indices[part]]
        copies[part] = torch.tensor([content in forgotten for content in contents(samples)], dtype=torch.bool)
    if not any(int(found.sum()) for found in copies.values()):
        return indices
    if not forget_too:
        counts = ", ".join(f"{int(found.sum())} in {part}" for part, found in copies.items())
        warnings.warn(
            f"exact copies of what is to be forgotten are not: {counts}, where they count as kept or as unseen; "
            "--forget-copies, where a command has it, forgets them too",
            stacklevel=2,  # the same place for all callers: once a process is enough
        )
        return indices
    settled = {part: indices[part][~found] for part, found in copies.items()}
    if empty := [part for part, left in settled.items() if not len(left)]:
        raise ValueError(f"forget_copies must leave images for {empty[0]}, all of them are copies of forgotten ones")
    forget = torch.cat([indices["forget"], indices["retain"][copies["retain"]]]).sort().values
    return {"forget": forget, **settled}


def whole_classes(forget, retain):
    """Classes of which nothing is kept: the labels of forget that no sample of retain has, ascending integers.

    forget, retain: labels, tensors or arrays of integers.  Returns a list.
    """
    return sorted({*forget.tolist()} - {*retain.tolist()})


def like(labels, unseen):
    """Positions of unseen samples of the classes that are to be forgotten, in their shares: as many as there are.

    labels: (N,) int64, of what is to be forgotten; unseen: (M,) int64, of unseen samples.  Returns int64, ascending.
    Raises ValueError for a class of which no sample is unseen.
    """
    classes, counts = labels.unique(return_counts=True)
    there = [(unseen == c).nonzero().flatten() for c in classes]
    for c, at in zip(classes.tolist(), there):
        if not len(at):
            raise ValueError(f"validation_size must leave an image of each class to forget, there is none of class {c}")
    share = min(len(at) / count for at, count in zip(there, counts.tolist()))
    return torch.cat([at[: max(1, round(share * count))] for at, count in zip(there, counts.tolist())]).sort().values


def contents(samples):
    """What tells inputs apart, one by one: a digest of each one's bytes."""
    rows = samples.inputs.detach().cpu().contiguous()  # one by one: there may be none, and of any dtype
    return [hashlib.blake2b(row.reshape(-1).view(torch.uint8).numpy(), digest_size=16).digest() for row in rows]


def forgotten(labels, total, names):
    """One line that says what is forgotten: how many of how many samples, and of which classes.

    labels: (N,) of what is forgotten; total: of all training samples; names: of the classes.
    """
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    parts = [f"{count} of class {name!r} ({i})" for i, (name, count) in enumerate(zip(names, counts)) if count]
    listed = ", ".join(parts[:20]) + ", ..." * (len(parts) > 20)
    return f"to be forgotten: {len(labels)} of {total} training images, {listed}"
