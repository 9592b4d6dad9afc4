"""What all results share: columns, provenance, hashes, JSON, files: named, and never half-written."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import tempfile
import unicodedata
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sae_explorer.errors import ExplorerError
from sae_explorer.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

    from sae_explorer.subject import Subject


@dataclass(frozen=True)
class Format:
    """A file format that results may have.

    Parameters
    ----------
    method
        Method of a result that gives the text, or writes it to a path.
    suffix
        Suffix of its files, without the dot.
    mime
        Media type.
    """

    method: str
    suffix: str
    mime: str


#: The formats by name. A result has those whose method it has.
FORMATS = {
    "json": Format("to_json", "json", "application/json"),
    "csv": Format("to_csv", "csv", "text/csv"),
    "newick": Format("to_newick", "nwk", "text/plain"),
    "dot": Format("to_dot", "dot", "text/vnd.graphviz"),
}


#: What Windows allows in no name of a file; other systems forbid less.
_FORBIDDEN = frozenset('<>:"/\\|?*')
#: Bytes in UTF-8 that each part of a file's name may take: an id of SAELens' registry fits.
_LONGEST = 56


def file_stem(request: Any, source: Provenance) -> str:
    """Return a name, without suffix, for a file about something.

    Parameters
    ----------
    request
        What was asked; its label says what it is about.
    source
        What it was asked of.

    Returns
    -------
    str
        Such as ``"gemma-2b-res-jb-blocks.6.hook_resid_post-feature-7"``: the release of the SAE or,
        where it has none, the model; the SAE's id, where one was involved; and the label. Hyphens
        stand for spaces and for what file systems forbid. Where that does not tell the subject from
        all others, 8 hexadecimal digits of the request's SHA-256 follow. At most 180 bytes in UTF-8.
    """
    model = re.split(r"[/\\]", source.model["id"].rstrip("/\\"))[-1]
    sae, label = source.sae, request.label
    about = [sae["release"] or model, sae["id"]] if sae else [model]
    readable = _in_file_name(label)
    parts = [*map(_in_file_name, about), readable]
    # On some disks names are one that differ in case alone, or in how an accent is written.
    tells_apart = readable.replace("-", " ") == unicodedata.normalize("NFC", label).casefold()
    # A label says of a vector no more than that it is one.
    if not tells_apart or "vector" in label or any(len(one.encode()) > _LONGEST for one in about):
        digest = _sha256({"about": about, "request": request.to_dict()})
        parts.append(digest[:8])
    return "-".join(filter(None, parts))


def _in_file_name(text: str) -> str:
    """Return a text, or the beginning of a long one, as a part of a file's name."""
    name = "".join(
        "-" if sign in _FORBIDDEN or sign.isspace() or not sign.isprintable() else sign
        for sign in text
    )
    # A dot in front hides a file, a hyphen makes it a flag.
    return name.encode()[:_LONGEST].decode(errors="ignore").strip(".-")


#: Packages whose version can change a number.
_VERSIONED = ("sae-explorer", "torch", "transformers", "sae-lens", "numpy")


@functools.cache
def package_versions() -> Mapping[str, str]:
    """Return the versions of the packages that a result depends on."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from, so that it can be cited and repeated.

    Parameters
    ----------
    model
        ``id``, ``revision``, ``architecture``, ``dtype``, ``device`` and ``fingerprint`` (of a
        sample of the weights) of the language model.
    sae
        ``id``, ``release``, ``hook_name``, ``architecture``, ``width`` and ``fingerprint``; empty
        where no SAE was involved.
    versions
        Versions of the packages that can change a number.
    """

    model: Mapping[str, Any]
    sae: Mapping[str, Any]
    versions: Mapping[str, str]


class Result:
    """Base of all results: a frozen dataclass with a ``request`` and a ``provenance``.

    A subclass names its ``kind`` and turns itself into plain JSON values (`_body`) and back
    (`_from_body`). The JSON of equal inputs is equal to the letter: it holds no time and no path.
    """

    kind: ClassVar[str]
    #: Raised when a saved result can no longer be read by this code.
    format: ClassVar[int] = 1
    #: What the row numbers of the table are called in CSV; None leaves them out.
    index_label: ClassVar[str | None] = None

    request: Any
    provenance: Provenance

    def _body(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._document() == other._document()

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def hash(self) -> str:
        """SHA-256 of everything in the result, provenance included, as 64 hexadecimal digits."""
        return _sha256(self._document())

    @property
    def stem(self) -> str:
        """Name, without suffix, for a file of the result: see :func:`file_stem`."""
        return file_stem(self.request, self.provenance)

    def _document(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "format": self.format,
            "request": self.request.to_dict(),
            "provenance": asdict(self.provenance),
            **self._body(),
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the result as JSON text; or write it to ``path``, and return that.

        The text holds every number exactly: :meth:`from_json` gives back an equal result.
        """
        document = self._document()
        document["hash"] = _sha256(document)
        return self._written(_canonical(document), path)

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return what a view needs to draw the result: JSON values, and columns of numbers as bytes.

        Parameters
        ----------
        subject
            The live subject, for results whose view can do more with it.
        """
        del subject
        return {
            "label": self.request.label,
            "stem": self.stem,
            "request": self.request.to_dict(),
            "provenance": asdict(self.provenance),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the result as a table."""
        raise NotImplementedError

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the table of :meth:`to_frame` as CSV; or write it to ``path``, and return that."""
        return self._written(csv_text(self.to_frame(), self.index_label), path)

    @staticmethod
    def _written(text: str, path: str | os.PathLike[str] | None) -> str:
        if path is None:
            return text
        write_text(path, text)
        return os.fspath(path)  # the text is too long for the output of a cell

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a result back, from a path or from JSON text.

        Raises
        ------
        ExplorerError
            If the file is missing, is not JSON, holds another kind of result, or was changed after
            it was written (its hash does not match).
        """
        document = _read_document(source)
        where = "The JSON text" if _is_json_text(source) else f"{os.fspath(source)}"
        if document.get("kind") != cls.kind:
            found = document.get("kind", "no result of this package")
            raise ExplorerError(f"{where} holds {found}, not a {cls.kind}.")
        if document.get("format") != cls.format:
            raise ExplorerError(
                f"{where} was written in format {document.get('format')} of {cls.kind}; this "
                f"version reads format {cls.format}. Use the version of sae-explorer named in it."
            )
        given_hash = document.pop("hash", None)
        if given_hash != _sha256(document):
            raise ExplorerError(
                f"{where} was changed after it was written: its hash does not match. "
                "Use the original file, or compute the result again."
            )
        provenance = Provenance(**document.pop("provenance"))
        request = document.pop("request")
        return cls._from_body(document, request, provenance)


def _canonical(document: Mapping[str, Any]) -> str:
    # NaN has no place in JSON, and none in a result: refuse instead of writing a broken file.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(document).encode()).hexdigest()


def _is_json_text(source: str | os.PathLike[str]) -> bool:
    return isinstance(source, str) and source.lstrip().startswith("{")


def _read_document(source: str | os.PathLike[str]) -> dict[str, Any]:
    if isinstance(source, str) and _is_json_text(source):
        text = source
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise ExplorerError(f"{os.fspath(source)} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ExplorerError(f"{os.fspath(source)} is not a text file.") from error
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExplorerError(f"Not JSON: {error}. Was the file cut off?") from error
    if not isinstance(document, dict):
        raise ExplorerError("The JSON holds no result: a result is an object with a 'kind'.")
    return document


def column(values: np.ndarray[Any, Any]) -> list[Any]:
    """Return an array as JSON numbers. Python's floats hold both float32 and float64 exactly."""
    return values.tolist()  # type: ignore[no-any-return]


def nullable(values: np.ndarray[Any, Any]) -> list[Any]:
    """Return an array of any shape as JSON numbers, with null for NaN, which JSON has not."""
    if values.ndim > 1:
        return [nullable(row) for row in values]
    return [None if math.isnan(value) else value for value in values.tolist()]


def packed(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return an array as a payload has it: numpy's name of the dtype, and the bytes."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return {"dtype": little.dtype.str, "data": little.tobytes()}


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8; see :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file: beside the target first, then renamed, so never half a file.

    Raises
    ------
    ExplorerError
        If the folder does not exist or cannot be written.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            # A pipe or a device, such as /dev/stdout, must not be replaced by a file.
            target.write_bytes(content)
            return
        target = target.resolve()  # behind a link: the link itself stays
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes private files; a result is as readable as any file the user creates.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ExplorerError(f"{path} cannot be written: {error.strerror}.") from error
        raise
