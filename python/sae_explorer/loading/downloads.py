"""Bringing the files of models and SAEs into the hub's cache, with progress in bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
)

from sae_explorer.errors import ExplorerError
from sae_explorer.loading.failures import BROKEN_OFF, PICKLED, cannot_load
from sae_explorer.loading.network import PAUSE, HubTrouble, access, is_a, is_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from sae_explorer.loading.registry import Entry

    #: Told what is going on, in words, and how far it is: 0 to 1, None where that is not known.
    #: It may raise, which ends the download; what has arrived is kept.
    Tell = Callable[[str, float | None], None]

__all__ = ["access", "fetch_model", "fetch_sae"]

#: Smaller files (bytes) are left to huggingface_hub, which starts them anew when they are cut off.
_SMALL = 1 << 20

#: Bytes that are read at once from a file.
_BLOCK = 1 << 20

#: A download that is cut off goes on by itself so often in a row, unless at least
#: ``_WORTHWHILE`` bytes arrived in between.
_RESUMPTIONS = 2
_WORTHWHILE = 64 << 20

#: Files that are downloaded at the same time.
_AT_ONCE = 4

#: Seconds between two reports of the progress.
_BETWEEN = 0.2

#: A partial file is nobody's when nothing has been done to it for so many seconds longer than a
#: connection that has gone silent is waited for.
_ABANDONED = 10.0

#: The files besides the weights that transformers looks for, in the root of a repository.
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.jinja",
    "*.model",
    "*.tiktoken",
)

#: Names of a model's weights: in one file, or the index of several.
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

#: The files that SAELens' loaders ask for, by the name of the conversion. ``{path}`` is the SAE's
#: place in its repository; those with a question mark may be absent.
_SAE_FILES: dict[str, tuple[str, ...]] = {
    "sae_lens": (
        "{path}/cfg.json",
        "{path}/sae_weights.safetensors",
        "{path}/sparsity.safetensors?",
    ),
    "connor_rob_hook_z": ("{stem}_cfg.json", "{path}"),
    "gemma_2": ("{path}/params.npz",),
    "gemma_2_transcoder": ("{path}/params.npz",),
    "gemma_3": ("{path}/config.json?", "{path}/params.safetensors"),
    "goodfire": ("{path}",),
    "deepseek_r1": ("{path}",),
    "qwen_scope": ("{path}",),
    "llama_scope": ("{path}/hyperparams.json", "{path}/checkpoints/final.safetensors"),
    "llama_scope_r1_distill": ("{path}/config.json", "{path}/sae_weights.safetensors"),
    "dictionary_learning_1": ("{path}/config.json", "{path}/ae.pt"),
    "sparsify": ("{path}/cfg.json", "{path}/sae.safetensors", "{above}/config.json?"),
    "mwhanna_transcoder": (
        "wandb-config.yaml?",
        "wanb-config.yaml?",  # a slip of some repositories
        "config.yaml?",
        "{path}",
    ),
    "mntss_clt_layer_transcoder": (
        "config.yaml",
        "W_enc_{path}.safetensors",
        "W_dec_{path}.safetensors",
    ),
    "temporal": ("{path}/conf.yaml", "{path}/latest_ckpt.safetensors"),
}


def fetch_model(
    name: str,
    revision: str | None,
    tell: Tell,
    *,
    allow_pickle: bool = False,
    token: str | bool | None = None,
    force_download: bool = False,
) -> None:
    """Bring what transformers needs of a model into the hub's cache.

    Does nothing for a folder, and where the hub is not asked.

    Parameters
    ----------
    name
        The model's hub id.
    revision
        Branch, tag or commit; None for the main branch.
    tell
        Told the progress.
    allow_pickle
        Take pickled weights where there are no others.
    token
        The hub's access token; None for the user's own, where there is one.
    force_download
        Fetch anew what is in the cache, too.

    Raises
    ------
    ExplorerError
        If it cannot be had, or does not fit on the disk.
    """
    if Path(name).is_dir():
        return
    source = _Source(f"The model {name}", name, revision, token, force_download)

    def wanted() -> dict[str, int]:
        listed = HfApi().list_repo_tree(name, revision=revision, token=token)
        root = {entry.path: entry.size for entry in listed if isinstance(entry, RepoFile)}
        settings = [path for path in root if any(fnmatch(path, name) for name in _SETTINGS)]
        weights = _weights(source, root, allow_pickle)
        return {path: root[path] for path in (*settings, *weights)}

    _fetch(source, wanted, ["config.json"], tell)


def fetch_sae(entry: Entry, tell: Tell, *, force_download: bool = False) -> None:
    """Bring what SAELens needs of an SAE into the hub's cache; see :func:`fetch_model`."""
    what = f"The SAE {entry.sae_id} of {entry.release}"
    source = _Source(what, entry.repo_id, None, None, force_download)
    needed, optional = _sae_files(entry.conversion, entry.path)

    def wanted() -> dict[str, int]:
        listed = HfApi().get_paths_info(entry.repo_id, [*needed, *optional])
        sizes = {found.path: found.size for found in listed if isinstance(found, RepoFile)}
        missing = [path for path in needed if path not in sizes]
        if missing:
            raise ExplorerError(
                f"{what} cannot be loaded: a file of it is not on the hub (any more), "
                f"{missing[0]} in {entry.repo_id}. Choose another one."
            )
        return sizes

    if needed:  # SAELens itself fetches what a later version of it may know
        _fetch(source, wanted, needed, tell)


def _sae_files(conversion: str, path: str) -> tuple[list[str], list[str]]:
    """Return the paths of the files that an SAE needs, and of those that may be absent."""
    path = path.strip("/")
    names = _SAE_FILES.get(conversion, ())
    if conversion == "gemma_3" and "clt" in path:
        names = ("{path}/config.json?", "{path}.safetensors")
    stem, above = path.split(".pt")[0], path.rpartition("/")[0]
    full = [name.format(path=path, stem=stem, above=above).lstrip("/") for name in names]
    needed = [name for name in full if not name.endswith("?")]
    return needed, [name[:-1] for name in full if name.endswith("?")]


def _weights(source: _Source, root: dict[str, int], allow_pickle: bool) -> list[str]:
    """Return the files of a model's weights, in the form that transformers takes first."""
    for whole, index in (_SAFE, _PICKLED):
        if (whole in root or index in root) and index is _PICKLED[1] and not allow_pickle:
            raise ExplorerError(f"{source.what} cannot be loaded: {PICKLED}")
        if whole in root:
            return [whole]
        if index in root:
            shards = json.loads(source.download(index, force=source.force).read_text("utf-8"))
            return [index, *sorted(root.keys() & set(shards["weight_map"].values()))]
    return []  # transformers says what it misses


@dataclass(frozen=True)
class _Source:
    """A repository on the hub, and how its files are to be fetched."""

    what: str
    repo: str
    revision: str | None
    token: str | bool | None
    force: bool

    def url(self, path: str) -> str:
        return hf_hub_url(self.repo, path, revision=self.revision)

    def cached(self, path: str) -> bool:
        return isinstance(try_to_load_from_cache(self.repo, path, revision=self.revision), str)

    def download(self, path: str, *, force: bool = False) -> Path:
        """Let huggingface_hub download a file, or take note of one that is in the cache by now."""
        return Path(
            hf_hub_download(
                self.repo, path, revision=self.revision, token=self.token, force_download=force
            )
        )


@dataclass(frozen=True)
class _File:
    """A file to fetch: its place in the repository, its size in bytes, and its place in the cache.

    ``blob`` and ``linked``, the name under which the cache shows it, are None for files that are
    left to huggingface_hub.
    """

    path: str
    size: int
    blob: Path | None = None
    linked: Path | None = None
    there: bool = False

    @property
    def arrived(self) -> int:
        """Bytes that need not be downloaded."""
        if self.there:
            return self.size
        return max((size for size, _, _ in _partials(self.blob)), default=0) if self.blob else 0


def _fetch(
    source: _Source, wanted: Callable[[], dict[str, int]], needed: list[str], tell: Tell
) -> None:
    """Download the wanted files, by path and size, that are not in the cache yet.

    Where the needed ones are in the cache, the hub's refusal is no failure: they are what is loaded.
    """
    with access():
        if not is_asked():
            if source.force:
                raise ExplorerError(
                    f"{source.what} cannot be fetched anew, since the hub is not asked. Leave "
                    "force_download out to load it from the cache."
                )
            return
        try:
            files = [_planned(source, path, size) for path, size in wanted().items()]
        except Exception as error:
            refused = isinstance(error, HubTrouble) or hasattr(error, "response")
            if refused and not source.force and all(map(source.cached, needed)):
                return
            raise cannot_load(source.what, error, token=source.token) from error
        if all(file.there for file in files):
            return
        _check_room(source, files)
        _bring(source, files, tell)


def _planned(source: _Source, path: str, size: int) -> _File:
    """Find out where a file goes in the hub's cache, and whether it is there."""
    if not _SMALL <= size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        return _File(path, size, there=source.cached(path) and not source.force)
    found = get_hf_file_metadata(source.url(path), token=source.token)
    if found.etag is None or found.commit_hash is None:
        return _File(path, size)  # huggingface_hub says what is wrong with it
    storage = _storage(source)
    blob = storage / "blobs" / found.etag
    linked = storage / "snapshots" / found.commit_hash / path
    there = (blob.exists() or linked.exists()) and not source.force
    return _File(path, size, blob, linked, there)


def _storage(source: _Source) -> Path:
    name = repo_folder_name(repo_id=source.repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / name


def _check_room(source: _Source, files: list[_File]) -> None:
    """Refuse what does not fit on the disk, before anything is written."""
    needed = sum(file.size - file.arrived for file in files)
    place = Path(constants.HF_HUB_CACHE).absolute()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ExplorerError(
            f"{source.what} cannot be loaded: {_bytes(needed)} are to be downloaded, and "
            f"{_bytes(free)} are free on the disk of the hub's cache. Free some space, or set "
            "HF_HOME to a folder on a larger disk."
        )


def _bring(source: _Source, files: list[_File], tell: Tell) -> None:
    """Download the files that are not there, several at a time, and report from this thread."""
    progress = _Progress(source.repo, files)
    pool = ThreadPoolExecutor(_AT_ONCE, "download")
    left: set[Future[None]] = set()
    try:
        for file in files:
            if not file.there:
                run = copy_context().run  # the threads are in this thread's block of access
                left.add(pool.submit(run, _bring_one, source, file, progress))
        while left:
            progress.report(tell)
            done, left = wait(left, _BETWEEN, FIRST_EXCEPTION)
            for job in done:
                try:
                    job.result()
                except Exception as error:
                    raise cannot_load(source.what, error, token=source.token) from error
        progress.report(tell)
    finally:
        progress.stop.set()
        pool.shutdown(cancel_futures=True)


def _bring_one(source: _Source, file: _File, progress: _Progress) -> None:
    if file.blob is not None:
        _bring_large(source, file, file.blob, progress)
    progress.go_on()
    source.download(file.path, force=source.force and file.blob is None)
    progress.arrived[file.path] = file.size


def _bring_large(source: _Source, file: _File, blob: Path, progress: _Progress) -> None:
    """Download a file to its place in the cache, going on from what an earlier try has brought.

    huggingface_hub downloads to a file of another name each time, so that what was cut off is lost.
    """
    lock = blob.parents[2] / ".locks" / blob.parent.parent.name / f"{blob.name}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(lock, file.path, progress):
        claimed = _claimed(blob, file.path, progress)
        if blob.exists() and not source.force:
            claimed.unlink(missing_ok=True)
            return
        try:
            _stream(source, file, claimed, progress)
        except BaseException as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if claimed.exists() and not full and claimed.stat().st_size:
                claimed.replace(blob.with_name(f"{blob.name}.incomplete"))  # for the next try
            else:
                claimed.unlink(missing_ok=True)
            raise
        claimed.replace(blob)
        if file.linked is not None and not file.linked.is_symlink():
            file.linked.unlink(missing_ok=True)  # a copy, where there are no links


@contextmanager
def _locked(lock: Path, path: str, progress: _Progress) -> Iterator[None]:
    """Hold the lock that huggingface_hub takes for a file, which may take long to get."""
    with ExitStack() as held:
        while True:
            progress.go_on()
            try:
                held.enter_context(WeakFileLock(lock, timeout=PAUSE))
                break
            except TimeoutError:
                progress.doing[path] = "waiting for another download of"
        progress.doing.pop(path, None)
        yield


def _partials(blob: Path) -> list[tuple[int, float, Path]]:
    """Return what earlier tries, and those of other processes, have brought of a file.

    Returns
    -------
    list of (int, float, Path)
        Size in bytes, time of the last change in seconds, and path; the largest last.
    """
    found = []
    for path in blob.parent.glob(f"{blob.name}.incomplete*"):
        try:
            state = path.stat()
        except FileNotFoundError:  # renamed just now
            continue
        found.append((state.st_size, state.st_mtime, path))
    return sorted(found)


def _claimed(blob: Path, path: str, progress: _Progress) -> Path:
    """Take what is there of a file under a name that no other process writes to.

    Some file systems ignore locks. There a name that changes is the lock: what another process has
    claimed is waited for, unless that one has been killed.
    """
    claimed = blob.with_name(f"{blob.name}.incomplete.{uuid4().hex[:8]}")
    free = blob.with_name(f"{blob.name}.incomplete")
    while partials := _partials(blob):
        progress.go_on()
        _, changed, largest = partials[-1]
        idle = time.time() - changed
        if largest != free and idle < _ABANDONED + constants.HF_HUB_DOWNLOAD_TIMEOUT:
            progress.doing[path] = "waiting for another download of"
            progress.stop.wait(_BETWEEN)
            continue
        try:
            os.utime(largest)  # from now on it is somebody's
            largest.rename(claimed)
        except FileNotFoundError:  # another process was faster
            continue
        break
    progress.doing.pop(path, None)
    return claimed


def _stream(source: _Source, file: _File, partial: Path, progress: _Progress) -> None:
    """Append to a partial file until it is whole, and compare it with the hub's checksum."""
    headers = {**build_hf_headers(token=source.token), "Accept-Encoding": "identity"}
    cut_off = 0
    with partial.open("a+b") as target:
        checksum = _checked(target, file.path, progress)
        while (start := target.tell()) < file.size:
            failure = None
            os.utime(partial)  # somebody is at it
            wanted = {**headers, "Range": f"bytes={start}-"}
            try:
                with get_session().stream(
                    "GET",
                    source.url(file.path),
                    headers=wanted,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                ) as response:
                    hf_raise_for_status(response)
                    if response.status_code == 200 and start:  # a proxy that knows no ranges
                        target.seek(0)
                        target.truncate()
                        checksum = hashlib.sha256()
                    for chunk in response.iter_bytes():
                        target.write(chunk)
                        checksum.update(chunk)
                        progress.arrived[file.path] = target.tell()
                        progress.go_on()
            except Exception as error:
                if not is_a(error, "TransportError"):
                    raise
                failure = error
            brought = target.tell() - start
            cut_off = 0 if brought >= _WORTHWHILE else cut_off + 1
            if target.tell() < file.size:
                if brought <= 0 or cut_off > _RESUMPTIONS:
                    raise HubTrouble(BROKEN_OFF) from failure
                progress.stop.wait(PAUSE)
                progress.go_on()
        whole = target.tell() == file.size
    named = partial.name.split(".")[0]
    # Large files are known by their SHA-256.
    if not whole or (re.fullmatch("[0-9a-f]{64}", named) and checksum.hexdigest() != named):
        partial.unlink()
        raise HubTrouble("it has arrived damaged. Load it again to fetch it anew.")


def _checked(target: BinaryIO, path: str, progress: _Progress) -> hashlib._Hash:
    """Return the checksum of what a partial file holds; it is then at its end."""
    checksum = hashlib.sha256()
    target.seek(0)
    progress.doing[path] = "checking what is there of"
    while chunk := target.read(_BLOCK):
        progress.go_on()
        checksum.update(chunk)
        os.utime(target.name)
    progress.doing.pop(path)
    return checksum


class _Progress:
    """How far the downloads of several files are: written by their threads, reported by one.

    Attributes
    ----------
    arrived
        Bytes that are there, by path.
    doing
        What is done with a file while nothing of it arrives, by path.
    stop
        Set when the downloads are to end.
    """

    def __init__(self, repo: str, files: list[_File]) -> None:
        self._repo, self._total = repo, sum(file.size for file in files)
        self._most = -1
        self.arrived = {file.path: file.arrived for file in files}
        self.doing: dict[str, str] = {}
        self.stop = threading.Event()

    def go_on(self) -> None:
        """Raise an error if the downloads are to end."""
        if self.stop.is_set():
            raise CancelledError

    def report(self, tell: Tell) -> None:
        """Tell how many bytes are there, never fewer than before; or what is done meanwhile."""
        arrived = sum(self.arrived.values())
        if arrived > self._most:
            self._most = arrived
            amount = f"{_bytes(arrived, self._total)} of {_bytes(self._total)}"
            share = arrived / self._total if self._total else 1.0
            tell(f"downloading {self._repo}: {amount}", share)
        elif doing := next(iter(self.doing.copy().values()), None):
            tell(f"{doing} {self._repo}", None)


def _bytes(count: int, whole: int | None = None) -> str:
    """Return ``"5.0 GB"``; as part of a whole ``"1.2"``, in the unit of the whole."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
    unit, name = next(u for u in units if (count if whole is None else whole) >= u[0] or u[0] == 1)
    number = f"{count / unit:,.1f}" if unit > 1 else f"{count}"
    return number if whole is not None else f"{number} {name}"
