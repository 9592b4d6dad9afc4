"""Fetch what the build needs from Debian's archive, with the machine's apt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["fetch_package", "fetch_wordnet", "preload_allocator"]

ALLOCATOR = "libtcmalloc_minimal.so.4"
LICENSE = "WORDNET_LICENSE"
_MARK = "DICTIONARY_MODEL_PRELOADED"


class MissingPackageError(RuntimeError):
    """A Debian package could not be fetched."""


def fetch_package(name: str, folder: Path) -> Path:
    """Download a Debian package and unpack it below ``folder``.

    Returns
    -------
    Path
        The root of the unpacked files.

    Raises
    ------
    MissingPackageError
        If apt is missing or does not find the package.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise MissingPackageError(f"{name} is fetched with {tool}, which is not here")
    root = folder / name
    root.mkdir(parents=True, exist_ok=True)
    download = subprocess.run(
        ["apt-get", "download", name], cwd=root, capture_output=True, text=True, check=False
    )
    archives = sorted(root.glob(f"{name}_*.deb"))
    if download.returncode or not archives:
        raise MissingPackageError(
            f"apt-get download {name} failed; has apt-get update been run?\n"
            f"{download.stderr.strip()}"
        )
    subprocess.run(["dpkg", "-x", archives[-1].name, "."], cwd=root, check=True)
    return root


def fetch_wordnet(target: Path, given: Path | None) -> None:
    """Put WordNet's dict files and its licence into ``target``.

    Parameters
    ----------
    target
        Folder to fill.
    given
        A folder with the dict files; without it Debian's package is fetched.
    """
    if given is None:
        try:
            root = fetch_package("wordnet-base", target / "package")
        except MissingPackageError as error:
            raise SystemExit(
                f"{error}\nGive WordNet 3.0's dict folder with --wordnet DIR instead."
            ) from error
        given = root / "usr/share/wordnet"
    for path in given.iterdir():
        if path.suffix in {".noun", ".verb", ".adj", ".adv"}:
            shutil.copy(path, target / path.name)
    (target / LICENSE).write_text(_licence(target / "data.noun"), encoding="utf-8")
    shutil.rmtree(target / "package", ignore_errors=True)


def _licence(data_file: Path) -> str:
    """Return the licence that stands, with numbered lines, at the head of each file."""
    with data_file.open(encoding="utf-8") as lines:
        head = []
        for line in lines:
            if not line.startswith("  "):
                break
            head.append(line.split(maxsplit=1)[1] if len(line.split()) > 1 else "\n")
    return "WordNet 3.0 license\n\n" + "".join(f"{line.rstrip()}\n" for line in head)


def preload_allocator(work: Path) -> None:
    """Start this program again with tcmalloc, where it can be had.

    Training makes and frees large arrays all the time; with glibc's allocator
    it takes nearly twice as long. Results do not depend on it.
    """
    if _MARK in os.environ:
        return
    library = _find_allocator(work)
    if library is None:
        print("tcmalloc not found: going on without, more slowly", flush=True)
        return
    os.environ[_MARK] = "1"
    os.environ["LD_PRELOAD"] = str(library)
    # Room for the matrix kernels of all row lengths, which are compiled once each.
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "20000"
    os.execv(sys.executable, [sys.executable, *sys.argv])


def _find_allocator(work: Path) -> Path | None:
    roots = [work / "packages", Path("/usr/lib"), Path("/usr/local/lib")]
    for root in roots:
        for found in sorted(root.rglob(ALLOCATOR)) if root.exists() else []:
            return found
    try:
        root = fetch_package("libtcmalloc-minimal4", work / "packages")
    except MissingPackageError:
        return None
    return next(iter(sorted(root.rglob(ALLOCATOR))), None)
