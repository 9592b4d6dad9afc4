"""Reaching the hub quickly, or not at all: loads inside :func:`access` never wait for long."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    parse_ratelimit_headers,
)

from sae_explorer.errors import ExplorerError
from sae_explorer.loading.failures import CHOSEN, UNREACHABLE, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds within which the hub has to be there at all.
PATIENCE = 4.0

#: Seconds before the one more try that a request gets: enough for a hiccup.
PAUSE = 1.0

#: Seconds within which the hub answers a request, huggingface_hub's own limit; a longer one is the
#: user's wish.
_CUSTOMARY = 10.0

_FROM_CACHE = "What is in the cache loads with local_files_only=True."


class HubTrouble(OfflineModeIsEnabled):
    """The hub answers badly or not at all, or is not asked; the message says why, and what to do.

    For huggingface_hub and transformers it is what they raise in offline mode: they do not try
    again, and take what the cache holds.
    """


@dataclass(eq=False)
class _Block:
    """What a block of :func:`access` knows.

    Parameters
    ----------
    refusal
        Why nothing is asked; None where the hub is asked.
    known
        What went wrong, by host, or by host and path.
    """

    refusal: str | None
    known: dict[str, str] = field(default_factory=dict)


#: The block in which this thread is. The user's own requests, in other threads, are in none.
_block: ContextVar[_Block | None] = ContextVar("block of access to the hub", default=None)


@contextmanager
def access(local_files_only: bool = False) -> Iterator[None]:
    """Let loads fail fast, and the cache serve at once where the hub cannot be reached.

    While the block runs, the hub is not asked if ``local_files_only`` is set or it does not answer;
    otherwise each request gets one more try, after a second, and then :class:`HubTrouble` is
    raised. This holds for the requests of this thread (and of those that run in a copy of its
    context). Blocks may be nested, and run in several threads.

    Parameters
    ----------
    local_files_only
        Do not ask the hub at all.

    Raises
    ------
    ExplorerError
        If the settings of the connection, such as a proxy's, are of no use.
    """
    outer = _block.get()
    if outer is not None and (outer.refusal or not local_files_only):
        yield
        return
    refusal = CHOSEN if local_files_only else None
    if refusal is None and not constants.HF_HUB_OFFLINE and not _reachable():
        refusal = UNREACHABLE
    with _guard.on(_Block(refusal)):
        yield


def is_asked() -> bool:
    """Return whether requests of this thread get to the hub."""
    block = _block.get()
    return not constants.HF_HUB_OFFLINE and (block is None or block.refusal is None)


def _reachable() -> bool:
    """Say whether anything answers at the hub's address, whatever it answers."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except Exception:  # noqa: BLE001 - whatever it is: there is no way to the hub
            return
        answers.append(True)

    # Looking up a name has no time limit, and dropped packets cost one limit each address: a thread
    # can be left behind.
    probe = threading.Thread(target=ask, name="hub-probe", daemon=True)
    probe.start()
    probe.join(PATIENCE)
    return bool(answers)


class _Guard:
    """Stands between huggingface_hub and its session while blocks of :func:`access` run.

    huggingface_hub tries again for half a minute and more after a server error or a lost
    connection. Its session is an httpx client, whose ``send`` every request passes through; the
    guard stands in front of that one method of that one object.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: set[_Block] = set()
        self._undo = ExitStack()

    @contextmanager
    def on(self, block: _Block) -> Iterator[None]:
        outer = _block.get()
        try:
            with self._lock:
                self._prepare(block)
            _block.set(block)
            yield
        finally:
            _block.set(outer)
            with self._lock:
                self._blocks.discard(block)
                if not self._blocks:
                    self._undo.close()

    def _prepare(self, block: _Block) -> None:
        """Make ready for one more block; what is done is noted in ``_undo``."""
        if not constants.HF_HUB_OFFLINE:
            session = _session()
            if "send" not in vars(session):
                self._undo.callback(vars(session).pop, "send", None)
                vars(session)["send"] = partial(_send, session.send)
        if not self._blocks:
            self._undo.enter_context(_without_bars())
            self._undo.enter_context(_without_chatter())
            self._undo.enter_context(_without_conversions())
            self._undo.enter_context(_shapes_from_cache())
        self._blocks.add(block)


def _session() -> Any:
    try:
        return get_session()
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ExplorerError(
            without_secrets(
                f"The connection to the hub cannot be set up: {reason}. See HTTPS_PROXY "
                "and SSL_CERT_FILE in the environment."
            )
        ) from error


def _send(send: Any, request: Any, **options: Any) -> Any:
    """Send a request; in a block, once more after a failure that may pass, and never again."""
    block = _block.get()
    if block is not None and block.refusal is not None:
        raise HubTrouble(block.refusal)
    if block is None or not _only_asks(request):
        return send(request, **options)
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        phase: _limit(phase, seconds) for phase, seconds in limits.items()
    }
    host = f"{request.url.host}:{request.url.port}"
    address = f"{host} {request.url.path}"
    for final in (False, True):
        for where in (host, address):
            if where in block.known:
                raise HubTrouble(block.known[where])
        response, cause = None, None
        try:
            response = send(request, **options)
        except Exception as error:
            if not is_a(error, "TransportError"):
                raise
            cause, where = error, host
            wait, trouble = _lost(error)
            # One slow answer says little about the others; two do.
            if is_a(error, "ReadTimeout") and trouble not in block.known.values():
                where = address
        else:
            if response.status_code not in (408, 429) and response.status_code < 500:
                return response
            response.close()
            where = address
            wait, trouble = _refused(response)
        if final or wait > PAUSE:
            block.known[where] = trouble
            raise HubTrouble(trouble) from cause
        time.sleep(PAUSE)
    raise AssertionError


def _limit(phase: str, seconds: float | None) -> float:
    """Return the seconds for a phase of a request whose own limit is given."""
    if seconds is not None and seconds > _CUSTOMARY:
        return seconds
    most = PATIENCE if phase in ("connect", "pool") else _CUSTOMARY
    return most if seconds is None else min(seconds, most)


def _only_asks(request: Any) -> bool:
    """Say whether a request changes nothing on the hub, so that it may be sent twice."""
    return request.method in ("GET", "HEAD") or "/paths-info/" in request.url.path


def _lost(error: Exception) -> tuple[float, str]:
    """Return the seconds after which it may work again, and what to say, for a lost connection."""
    if is_a(error, "ProxyError"):
        return float("inf"), (
            "the proxy refuses the way to the hub. Check HTTPS_PROXY in the environment. "
            f"{_FROM_CACHE}"
        )
    if is_a(error, "TimeoutException"):
        return float("inf"), f"the hub does not answer. Try again later. {_FROM_CACHE}"
    return PAUSE, f"the connection to the hub is lost. Check it and try again. {_FROM_CACHE}"


def _refused(response: Any) -> tuple[float, str]:
    """Return the seconds after which it may work again, and what to say, for a bad answer."""
    asked = str(response.headers.get("retry-after", ""))
    wait = float(asked) if asked.isdigit() else 0.0
    if response.status_code != 429:
        return wait, (
            f"the hub has an error of its own (status {response.status_code}). Try again later. "
            f"{_FROM_CACHE}"
        )
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    when = f"in {wait:.0f} seconds" if wait else "in some minutes"
    return wait or float("inf"), (
        f"the hub takes no more requests from here for now (rate limit). Try again {when}; who is "
        f"logged in may ask more often: hf auth login. {_FROM_CACHE}"
    )


def is_a(error: BaseException, name: str) -> bool:
    """Say whether an error is of a class of this name.

    Names, since huggingface_hub has changed its HTTP library more than once.
    """
    return any(kind.__name__ == name for kind in type(error).__mro__)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep huggingface_hub from drawing bars: our own progress says it."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep huggingface_hub from warning of each file that the cache serves, as it is meant to."""

    def is_worth_saying(record: logging.LogRecord) -> bool:
        return _block.get() is None or "Using cached commit hash" not in record.getMessage()

    logger = logging.getLogger("huggingface_hub.hf_api")
    logger.addFilter(is_worth_saying)
    try:
        yield
    finally:
        logger.removeFilter(is_worth_saying)


@contextmanager
def _without_conversions() -> Iterator[None]:
    """Keep transformers from asking for a model's conversion, in a thread that outlives the load.

    It does so for pickled weights, and a service then opens a pull request in their repository.
    """
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _shapes_from_cache() -> Iterator[None]:
    """Let SAELens read the shapes of an SAE's tensors from the cached file.

    Its loaders of Gemma Scope 2 and of cross-layer transcoders ask the hub for them in each load,
    past huggingface_hub, and so fail offline even though the file is in the cache.
    """
    from huggingface_hub import hf_hub_download
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    original = loaders.get_safetensors_tensor_shapes

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        # The loaders want the whole file next, so it may as well be fetched here.
        with safe_open(hf_hub_download(repo_id, filename), framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    loaders.get_safetensors_tensor_shapes = shapes
    try:
        yield
    finally:
        loaders.get_safetensors_tensor_shapes = original


_guard = _Guard()
