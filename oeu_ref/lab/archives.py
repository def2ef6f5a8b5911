"""Files from elsewhere: fetched and unpacked whole or not at all, and never to a place outside the folder meant."""

import os
import pathlib
import shutil
import stat
import tarfile
import zipfile

WORKPLACE = ".oeu_ref-incoming"  # below the target folder, for what is not whole yet


def fetch(url, root, name, md5):
    """Download a file to `root / name`, where it appears once its MD5 is right; nothing to do where it has that.

    The caller holds the folder's lock.  Raises ValueError for what cannot be downloaded or has another MD5.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    if check_integrity(str(root / name), md5):
        return
    place = _empty(root)
    try:
        download_url(url, str(place), name, md5)
        os.replace(place / name, root / name)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(
            f"{url} could not be downloaded ({reason}): fetch it elsewhere and put it into {root}"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def unpack(archive, root, folder):
    """Unpack a .tar.gz or .zip archive, whose files lie in `folder`; `root / folder` appears once it is whole.

    The caller holds the lock of `root`.  Raises ValueError, naming the archive, for one that is damaged, lacks the
    folder, or holds anything but files and folders with names inside it (a link, `..`, an absolute path).
    """
    place = _empty(root)
    try:
        for name, read in _members(archive):
            parts = pathlib.PurePosixPath(name).parts
            # a drive or a backslash means something on Windows alone
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
                raise ValueError(f"{archive} must hold names inside a folder alone, it names {name!r}")
            target = place.joinpath(*parts)
            if read is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with read() as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)
        if not (place / folder).is_dir():
            raise ValueError(f"{archive} must hold the folder {folder}, it does not")
        os.replace(place / folder, root / folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{archive} must be an archive, it cannot be read: {error}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _members(archive):
    """(name, function that opens it, None for a folder) of each member.  Raises ValueError for what is neither."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise ValueError(f"{archive} must hold files and folders alone, {info.filename!r} is a link")
                yield info.filename, None if info.is_dir() else lambda: file.open(info)
        return
    with tarfile.open(archive) as file:
        for member in file:
            if not (member.isfile() or member.isdir()):
                raise ValueError(f"{archive} must hold files and folders alone, {member.name!r} is neither")
            yield member.name, None if member.isdir() else lambda: file.extractfile(member)


def _empty(root):
    place = root / WORKPLACE
    shutil.rmtree(place, ignore_errors=True)  # what a killed process left
    place.mkdir(parents=True)
    return place
