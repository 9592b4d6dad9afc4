"""A stand-in for the Hugging Face hub: a server on the loopback that speaks the hub's protocol.

It serves a folder with one subfolder a repository (``google/gemma-2b/config.json`` and so on), so
that the loaders of transformers and SAELens run as they are, without the internet.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import transformers.utils.hub
from safetensors.torch import save_file

from zoo import build_model, build_sae, build_tokenizer

SAE_REPOSITORY = "jbloom/Gemma-2b-Residual-Stream-SAEs"
#: Paths of that release's SAEs in its repository, by layer.
SAE_PATHS = {
    6: "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr",
    12: "gemma_2b_blocks.12.hook_resid_post_16384",
}

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)(?:/(?P<under>.*))?)?"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Hub:
    """A running hub.

    Parameters
    ----------
    repositories
        The folder it serves.
    gated
        Names of repositories that want a login.
    requests
        What was asked of it: ``"HEAD google/gemma-2b config.json"`` and so on, in order.
    waits
        Seconds that the client would have waited before it tried again; here it does not.
    """

    repositories: Path
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Listen on a free port of 127.0.0.1; return the address."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        """Stop listening; the address then refuses connections. Stopping twice does no harm."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            huggingface_hub.utils.close_session()

    def commit(self, repo: str) -> str:
        """Return the repository's only commit: a hash of its name."""
        return hashlib.sha1(repo.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        match = _API.fullmatch(path) or _RESOLVE.fullmatch(path)
        if match is None:
            self._refuse(404, "RepoNotFound")
            return
        found = match.groupdict()
        repo, folder = found["repo"], self.hub.repositories / found["repo"]
        what = found.get("file") or f"api {found.get('what') or 'info'}"
        self.hub.requests.append(f"{self.command} {repo} {what}")
        if repo in self.hub.gated:
            self._refuse(401, "GatedRepo")
        elif not folder.is_dir():
            self._refuse(404, "RepoNotFound")
        elif found["revision"] not in (None, "main", self.hub.commit(repo)):
            self._refuse(404, "RevisionNotFound")
        elif match.re is _API:
            self._send_json(self._listing(repo, folder, found))
        elif not (folder / what).is_file():
            self._refuse(404, "EntryNotFound", repo)
        else:
            self._send_file(repo, folder / what)

    def _listing(self, repo: str, folder: Path, found: dict[str, Any]) -> Any:
        files = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
        if found["what"] == "tree":
            under = found["under"] or ""
            return [
                {"type": "file", "path": str(f), "size": (folder / f).stat().st_size, "oid": "0"}
                for f in files
                if str(f).startswith(under)
            ]
        return {
            "id": repo,
            "sha": self.hub.commit(repo),
            "private": False,
            "gated": False,
            "tags": [],
            "siblings": [{"rfilename": str(f)} for f in files],
        }

    def _refuse(self, status: int, code: str, repo: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        if repo is not None:
            headers["X-Repo-Commit"] = self.hub.commit(repo)
        self._send(status, b"", headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo: str, path: Path) -> None:
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit(repo),
            "Accept-Ranges": "bytes",
        }
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None:
            self._send(200, content, headers)
            return
        first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


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
