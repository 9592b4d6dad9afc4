"""A stand-in for the Hugging Face hub: a server on the loopback that speaks the hub's protocol.

It serves a folder with one subfolder a repository (``google/gemma-2b/config.json`` and so on), so
that the loaders of transformers and SAELens run as they are, without the internet. Its answers can
be made to go wrong, file by file. ``python tests/hub.py FOLDER`` serves a folder for other
processes, which find it by ``HF_ENDPOINT``.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.utils

SAE_REPOSITORY = "jbloom/Gemma-2b-Residual-Stream-SAEs"
#: Paths of that release's SAEs in its repository, by layer.
SAE_PATHS = {
    6: "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr",
    12: "gemma_2b_blocks.12.hook_resid_post_16384",
}

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<under>.*))?)?"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
#: Files that the hub keeps outside of git, and knows by their SHA-256.
_LARGE = (".safetensors", ".bin", ".pt", ".npz")
_CHUNK = 1 << 16


@dataclass
class Fault:
    """What goes wrong when a file, or an answer about a repository, is asked for.

    Parameters
    ----------
    status
        Status of a refusal.
    retry_after
        Seconds after which the hub wants to be asked again.
    cut_after
        Bytes of an answer after which the connection is closed.
    corrupt
        Send other bytes than are in the file, as many.
    pause
        Seconds before each 64 KiB of an answer.
    whole
        Send the whole file, whatever part of it is asked for.
    silent
        Accept the request and never answer.
    times
        Requests that it befalls; None for all.
    methods
        Kinds of requests that it befalls.
    """

    status: int | None = None
    retry_after: int | None = None
    cut_after: int | None = None
    corrupt: bool = False
    pause: float = 0.0
    whole: bool = False
    silent: bool = False
    times: int | None = None
    methods: tuple[str, ...] = ("HEAD", "GET", "POST")


@dataclass
class Hub:
    """A running hub.

    Parameters
    ----------
    repositories
        The folder it serves.
    gated, private
        Names of repositories that want a login: gated ones for their files, private ones for all.
    members
        Access tokens that are let into them.
    faults
        What goes wrong, by the end of what is asked for: ``"model.safetensors"``, ``"api tree"``.
    sizes
        Sizes that it claims its files to have, by path.
    requests
        What was asked of it: ``"HEAD google/gemma-2b config.json"`` and so on, in order.
    ranges
        Parts of files that were asked for: ``"model.safetensors bytes=100-"`` and so on.
    authorizations
        The headers by which clients showed who they are.
    sent
        Bytes that were sent of each file.
    busy
        Files that are being sent.
    crowds
        How many they were each time that one more began.
    waits
        Seconds that the client would have waited before it tried again; here it does not.
    """

    repositories: Path
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    faults: dict[str, Fault] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    busy: set[str] = field(default_factory=set)
    crowds: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Listen on a free port of 127.0.0.1; return the address."""
        self.server = _Server(("127.0.0.1", 0), type("_", (_Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        """Stop listening; the address then refuses connections. Stopping twice does no harm."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            huggingface_hub.utils.close_session()

    def fault(self, method: str, asked: str) -> Fault:
        """Return what goes wrong with this request: mostly nothing."""
        for end, fault in self.faults.items():
            if asked.endswith(end) and method in fault.methods and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return Fault()

    def commit(self, repo: str) -> str:
        """Return the repository's only commit: a hash of its name."""
        return hashlib.sha1(repo.encode()).hexdigest()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may leave at any time
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    fault: Fault
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.fault = Fault()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path, query = urlsplit(self.path)[2:4]
        match = _API.fullmatch(unquote(path)) or _RESOLVE.fullmatch(unquote(path))
        if match is None:
            self._refuse(404, "RepoNotFound")
            return
        found = match.groupdict()
        repo, folder = found["repo"], self.hub.repositories / found["repo"]
        what = found.get("file") or f"api {found.get('what') or 'info'}"
        self.hub.requests.append(f"{self.command} {repo} {what}")
        self.fault = self.hub.fault(self.command, what)
        shown = self.headers.get("Authorization")
        if shown is not None:
            self.hub.authorizations.append(shown)
        member = shown is not None and shown.removeprefix("Bearer ") in self.hub.members
        while self.fault.silent and self.hub.server is not None:
            time.sleep(0.05)
        if self.fault.status is not None:
            self._refuse(self.fault.status, "")
        elif match.re is _RESOLVE and repo in self.hub.gated and not member:
            self._refuse(401 if shown is None else 403, "GatedRepo")
        elif not folder.is_dir() or (repo in self.hub.private and not member):
            self._refuse(401 if shown is None else 404, "RepoNotFound")
        elif found["revision"] not in (None, "main", self.hub.commit(repo)):
            self._refuse(404, "RevisionNotFound")
        elif match.re is _API:
            self._send_json(self._listing(repo, folder, found, parse_qs(body or query)))
        elif not (folder / what).is_file():
            self._refuse(404, "EntryNotFound", repo)
        else:
            self._send_file(repo, folder, what)

    def _listing(
        self, repo: str, folder: Path, found: dict[str, Any], options: dict[str, list[str]]
    ) -> Any:
        files = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
        entries = [
            {
                "type": "file",
                "path": file,
                "size": self.hub.sizes.get(file, (folder / file).stat().st_size),
                "oid": "0",
            }
            for file in files
        ]
        if found["what"] == "paths-info":
            return [entry for entry in entries if entry["path"] in options.get("paths", [])]
        if found["what"] == "tree":
            under = found["under"] or ""
            deep = options.get("recursive") in (["true"], ["True"])
            return [
                entry
                for entry in entries
                if str(entry["path"]).startswith(under)
                and (deep or "/" not in str(entry["path"])[len(under) :].strip("/"))
            ]
        return {
            "id": repo,
            "sha": self.hub.commit(repo),
            "private": False,
            "gated": False,
            "tags": [],
            "siblings": [{"rfilename": file} for file in files],
        }

    def _refuse(self, status: int, code: str, repo: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        if repo is not None:
            headers["X-Repo-Commit"] = self.hub.commit(repo)
        if self.fault.retry_after is not None:
            headers["Retry-After"] = str(self.fault.retry_after)
        self._send(status, b"", headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo: str, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256 if name.endswith(_LARGE) else hashlib.sha1
        headers = {
            "ETag": f'"{digest(content).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit(repo),
            "Accept-Ranges": "bytes",
        }
        if self.fault.corrupt:
            content = bytes(len(content))
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or self.fault.whole:
            self._send(200, content, headers, name)
            return
        self.hub.ranges.append(f"{name} {match[0]}")
        first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers, name)

    def _send(self, status: int, content: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.hub.busy |= {name} - {""}
        self.hub.crowds.append(len(self.hub.busy))
        try:
            self._send_body(content, name)
        finally:
            self.hub.busy.discard(name)

    def _send_body(self, content: bytes, name: str) -> None:
        end = len(content) if self.fault.cut_after is None else self.fault.cut_after
        for start in range(0, min(end, len(content)), _CHUNK):
            time.sleep(self.fault.pause)
            chunk = content[start : min(start + _CHUNK, end)]
            self.wfile.write(chunk)
            self.hub.sent[name] += len(chunk)
        if end < len(content):
            self.close_connection = True


@contextmanager
def serving(repositories: Path, cache: Path) -> Iterator[Hub]:
    """Serve a folder of repositories, and let this process take it for the hub.

    Parameters
    ----------
    repositories
        One subfolder a repository, such as ``google/gemma-2b``.
    cache
        Folder in place of the user's cache.
    """
    import pytest
    import transformers.utils.hub

    hub = Hub(repositories)
    address = hub.start()
    constants = huggingface_hub.constants
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        impatient = SimpleNamespace(**{**vars(time), "sleep": hub.waits.append})
        patch.setattr(huggingface_hub.utils._http, "time", impatient)
        patch.setattr(transformers.utils.hub, "_hf_api", None)  # it remembers the address
        huggingface_hub.utils.close_session()  # a client remembers the proxies of its time
        try:
            yield hub
        finally:
            hub.stop()
            huggingface_hub.utils.close_session()


def gemma_stand_in(root: Path, features: int = 24) -> None:
    """Write a tiny Gemma and SAEs of its layers, laid out as Gemma-2B and its SAEs on the hub."""
    from safetensors.torch import save_file

    from zoo import build_model, build_sae, build_tokenizer

    gemma = root / "google" / "gemma-2b"
    build_model("gemma", layers=13).save_pretrained(gemma)
    build_tokenizer().save_pretrained(gemma)
    for layer, path in SAE_PATHS.items():
        sae = build_sae(48, features=features, layer=layer, seed=layer)
        place = root / SAE_REPOSITORY / path
        place.mkdir(parents=True)
        weights = {
            name: getattr(sae, name).detach() for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        }
        save_file(weights, place / "sae_weights.safetensors")
        # As SAELens wrote it when the release was made.
        config = {
            "model_name": "gemma-2b",
            "hook_point": f"blocks.{layer}.hook_resid_post",
            "hook_point_layer": layer,
            "hook_point_head_index": None,
            "activation_fn_str": "relu",
            "d_in": 48,
            "d_sae": features,
            "dtype": "torch.float32",
            "device": "mps",
            "context_size": 1024,
            "prepend_bos": True,
            "normalize_activations": layer == 12,
        }
        (place / "cfg.json").write_text(json.dumps(config))


def main() -> None:
    """Serve the folder given on the command line until the process is told to end."""
    hub = Hub(Path(sys.argv[1]))
    print(hub.start(), flush=True)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    done.wait()
    hub.stop()


if __name__ == "__main__":
    main()
