"""Files from elsewhere: found, fetched and unpacked whole or not at all, never to a place outside the folder meant."""

import codecs
import contextlib
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib

WORKPLACE = ".oeu_ref-incoming"  # below the target folder, for what is not whole yet
# what systems and tools leave in folders, besides names that begin with a dot
NO_DATA = {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
NO_DATA |= {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"}


def is_no_data(name):
    """Whether a file or folder of this name is a system's or a tool's own, such as `._1.png` or `__MACOSX`."""
    return name.startswith(".") or name.lower() in NO_DATA


def find(root, name):
    """A file or folder of this name in a folder, in one of its folders, or the folder itself; None if there is none."""
    deeper = [path for path in sorted(root.glob(f"*/{name}")) if not is_no_data(path.parent.name)]
    places = [root / name, *deeper, *([root] if root.name == name else [])]
    found = next((path for path in places if path.exists()), None)
    while found is not None and (found / name).exists():  # an archive that was unpacked into a folder of its own name
        found = found / name
    return found


def read_text(path):
    """Contents of a text file in UTF-8, or in UTF-16 as PowerShell's `>` writes it, each with or without its mark.

    Raises OSError or UnicodeDecodeError for what cannot be read or is no text.
    """
    content = pathlib.Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if b"\0" in content[:2]:  # no text has the character 0: it is half of a first character in UTF-16
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le")
    return content.decode("utf-8-sig")


def fetch(url, root, name, md5):
    """Download a file to `root / name`, where it appears once its MD5 is right; nothing to do where it has that.

    The caller holds the folder's lock.  Raises ValueError for what cannot be downloaded or has another MD5.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    if check_integrity(str(root / name), md5):
        return
    with _incoming(root) as place:
        try:
            download_url(url, str(place), name, md5)
            os.replace(place / name, root / name)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:150]
            raise ValueError(
                f"{url} could not be downloaded ({reason}): fetch it elsewhere and put it into {root}"
            ) from None


def unpack(archive, root, folder):
    """Unpack a .tar, .tar.gz or .zip archive, whose files lie in `folder`; `root / folder` appears once it is whole.

    The caller holds the lock of `root`.  Raises ValueError, naming the archive, for one that is damaged, lacks the
    folder, or holds anything but files and folders with names inside it (a link, `..`, an absolute path).
    """
    zipped = archive.suffix == ".zip"
    if not zipped and not hasattr(tarfile, "data_filter"):
        raise ValueError(
            f"{archive} must be unpacked by hand, or by Python 3.10.12, 3.11.4 or newer, which do it safely"
        )
    with _incoming(root) as place:
        try:
            with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as file:
                for member in file.infolist() if zipped else file:
                    name = member.filename if zipped else member.name
                    parts = pathlib.PurePosixPath(name).parts
                    plain = (
                        not stat.S_ISLNK(member.external_attr >> 16) if zipped else member.isfile() or member.isdir()
                    )
                    # a drive or a backslash means something on Windows alone
                    if not plain or not parts or name[0] == "/" or ".." in parts or "\\" in name or ":" in parts[0]:
                        raise ValueError(f"{archive} must hold files and folders inside it alone, it holds {name!r}")
                file.extractall(place, **({} if zipped else {"filter": "data"}))
            if not (place / folder).is_dir():
                raise ValueError(f"{archive} must hold the folder {folder}, it does not")
            os.replace(place / folder, root / folder)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"{archive} must be an archive, it cannot be read: {' '.join(str(error).split())}"
            ) from None


@contextlib.contextmanager
def _incoming(root):
    """An empty folder for what is not whole yet, for as long as the context lasts."""
    place = root / WORKPLACE
    shutil.rmtree(place, ignore_errors=True)  # what a killed process left
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
