"""Claims about downloads: what they bring, what they say, and how fast they give up."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import close_session, constants, get_session, hf_hub_download
from huggingface_hub.utils import WeakFileLock, _http, are_progress_bars_disabled
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hub import SAE_PATHS, SAE_REPOSITORY, Fault, Hub, gemma_stand_in, serving
from sae_explorer import ExplorerError, Subject
from sae_explorer.loading import downloads
from sae_explorer.loading.downloads import access, fetch_model, fetch_sae
from sae_explorer.loading.failures import cannot_load, without_secrets
from sae_explorer.loading.network import is_asked
from sae_explorer.loading.registry import Entry, choose

GEMMA = "google/gemma-2b"
WEIGHTS = "model.safetensors"
SAE_WEIGHTS = f"{SAE_PATHS[12]}/sae_weights.safetensors"
FEATURES = 8192  # an SAE of 3 MB, so that it comes in many parts
SHAPES = pretrained_sae_loaders.get_safetensors_tensor_shapes
TOKEN = "hf_" + "aBcDeFgHiJ" * 3


@cache
def entry() -> Entry:
    return choose("gemma-2b-res-jb", layer=12)


def silent(text: str, share: float | None) -> None:
    """Take no notice of the progress."""


def load_sae(tell: Any = silent, **options: Any) -> SAE[Any]:
    """Load the SAE at layer 12 as the explorer does."""
    found = entry()
    with access():
        fetch_sae(found, tell, **options)
        try:
            return SAE.from_pretrained(found.release, found.sae_id)
        except Exception as error:
            raise cannot_load(f"The SAE {found.sae_id} of {found.release}", error) from error


def load_model(tell: Any = silent, **options: Any) -> Any:
    """Load the model as the explorer does."""
    with access():
        fetch_model(GEMMA, options.pop("revision", None), tell, **options)
        options = {name: options[name] for name in options if name == "token"}
        try:
            AutoTokenizer.from_pretrained(GEMMA, **options)
            return AutoModelForCausalLM.from_pretrained(GEMMA, **options)
        except Exception as error:
            raise cannot_load(f"The model {GEMMA}", error) from error


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    gemma_stand_in(root, features=FEATURES)
    entry()  # reading the registry takes its time, which is none of the hub's
    return root


@pytest.fixture
def hub(originals: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub whose files a test may change, and an empty cache."""
    shutil.copytree(originals, tmp_path / "served")
    with serving(tmp_path / "served", tmp_path / "cache") as running:
        yield running
    assert running.waits == []  # seconds that huggingface_hub would have waited of its own
    assert is_as_before()


def is_as_before() -> bool:
    """Say whether other libraries are as they are where nothing is loaded."""
    return (
        not constants.HF_HUB_OFFLINE
        and "send" not in vars(get_session())
        and not are_progress_bars_disabled()
        and pretrained_sae_loaders.get_safetensors_tensor_shapes is SHAPES
        and "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
    )


def cached(pattern: str) -> list[Path]:
    return list(Path(constants.HF_HUB_CACHE).rglob(pattern))


# --- What arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_sae, load_model])
def test_progress_rises_to_all_bytes_and_nothing_comes_twice(
    hub: Hub, load: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    hub.faults[".safetensors"] = Fault(pause=0.03)
    told: list[tuple[str, float]] = []
    load(lambda *said: told.append(said))
    shares = [share for _, share in told]
    assert shares == sorted(set(shares))
    assert len(shares) >= 3
    assert shares[-1] == 1.0
    repository = SAE_REPOSITORY if load is load_sae else GEMMA
    assert all(text.startswith(f"downloading {repository}: ") for text, _ in told)
    assert told[-1][0].endswith(" MB")
    folder = hub.repositories / repository
    for path, sent in hub.sent.items():
        if path:  # not an answer of the API
            assert sent == (folder / path).stat().st_size
    assert "B/s" not in capfd.readouterr().err  # a bar of huggingface_hub's
    hub.sent.clear()
    told.clear()
    load(lambda *said: told.append(said))
    assert not any(path for path in hub.sent)
    assert told == []


def test_only_what_transformers_reads_is_downloaded(hub: Hub) -> None:
    folder = hub.repositories / GEMMA
    for extra in ("pytorch_model.bin", "model.gguf", "consolidated.safetensors", "README.md"):
        (folder / extra).write_bytes(b"x" * 100)
    (folder / "original").mkdir()
    (folder / "original" / WEIGHTS).write_bytes(b"x" * 100)
    fetch_model(GEMMA, None, silent)
    assert sorted(path for path in hub.sent if path) == [
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_weights_in_several_files_are_all_brought(hub: Hub) -> None:
    folder = hub.repositories / GEMMA
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="400KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    fetch_model(GEMMA, None, silent)
    hub.sent.clear()
    loaded = load_model()
    assert not any(path for path in hub.sent)
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def shards(hub: Hub, count: int = 6) -> list[str]:
    """Put a model on the hub whose weights, 1.5 MB each, are in so many files."""
    folder = hub.repositories / "someone" / "large"
    folder.mkdir(parents=True)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    for name in names:
        (folder / name).write_bytes(os.urandom(1_500_000))
    index = {"weight_map": {f"weight {name}": name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_several_files_come_at_the_same_time(hub: Hub) -> None:
    names = shards(hub)
    hub.faults[".safetensors"] = Fault(pause=0.03)
    told: list[float | None] = []
    threads: set[str] = set()

    def tell(text: str, share: float | None) -> None:
        told.append(share)
        threads.add(threading.current_thread().name)

    fetch_model("someone/large", None, tell)
    assert max(hub.crowds) == 4
    assert threads == {threading.current_thread().name}
    shares = [share for share in told if share is not None]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    for name in names:
        (arrived,) = cached(name)
        assert arrived.read_bytes() == (hub.repositories / "someone/large" / name).read_bytes()
        assert hub.sent[name] == 1_500_000


def test_one_file_that_fails_ends_the_download_of_all_and_what_is_there_is_kept(hub: Hub) -> None:
    names = shards(hub)
    hub.faults[names[1]] = Fault(corrupt=True, pause=0.02, methods=("GET",))
    hub.faults[".safetensors"] = Fault(pause=0.05, methods=("GET",))
    with pytest.raises(ExplorerError, match=r"^The model someone/large .* has arrived damaged"):
        fetch_model("someone/large", None, silent)
    assert hub.sent[names[4]] < 500_000  # it may just have begun
    assert hub.sent[names[5]] == 0
    wait_until(lambda: not hub.busy)
    partial = {path: path.stat().st_size for path in cached("*.incomplete*")}
    assert len(partial) >= 3
    hub.faults.clear()
    hub.sent.clear()
    fetch_model("someone/large", None, silent)
    assert sum(hub.sent[name] for name in names) == 6 * 1_500_000 - sum(partial.values())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_folder_is_not_looked_for_on_the_hub(hub: Hub) -> None:
    fetch_model(str(hub.repositories / GEMMA), None, silent)
    assert hub.requests == []


#: Conversions of SAELens, the place of an SAE, and the files that its loader asks for.
LAYOUTS = {
    "sae_lens": ("a/b", ["a/b/cfg.json", "a/b/sae_weights.safetensors"]),
    "connor_rob_hook_z": ("a_v9.pt", ["a_v9.pt", "a_v9_cfg.json"]),
    "gemma_2": ("layer_1/average", ["layer_1/average/params.npz"]),
    "gemma_2_transcoder": ("layer_1", ["layer_1/params.npz"]),
    "gemma_3": ("resid_post/layer_1", ["resid_post/layer_1/params.safetensors"]),
    "gemma_3 clt": ("clt/layer_1", ["clt/layer_1.safetensors"]),
    "goodfire": ("a.pth", ["a.pth"]),
    "llama_scope": ("L1", ["L1/checkpoints/final.safetensors", "L1/hyperparams.json"]),
    "llama_scope_r1_distill": ("a/L1R", ["a/L1R/config.json", "a/L1R/sae_weights.safetensors"]),
    "dictionary_learning_1": ("a", ["a/ae.pt", "a/config.json"]),
    "sparsify": ("layers.1", ["config.json", "layers.1/cfg.json", "layers.1/sae.safetensors"]),
    "mwhanna_transcoder": (
        "layer_1.safetensors",
        ["config.yaml", "layer_1.safetensors", "wanb-config.yaml"],
    ),
    "mntss_clt_layer_transcoder": (
        "1",
        ["W_dec_1.safetensors", "W_enc_1.safetensors", "config.yaml"],
    ),
    "temporal": (
        "layer_1/temporal",
        ["layer_1/temporal/conf.yaml", "layer_1/temporal/latest_ckpt.safetensors"],
    ),
    "qwen_scope": ("layer1.sae.pt", ["layer1.sae.pt"]),
    "deepseek_r1": ("l19.pt", ["l19.pt"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loader_finds_every_file_that_was_fetched_and_asks_for_no_other(
    hub: Hub, layout: str
) -> None:
    conversion, path = layout.split(maxsplit=1)[0], LAYOUTS[layout][0]
    files = LAYOUTS[layout][1]
    for name in files:
        place = hub.repositories / "someone" / "saes" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"name": name}))  # the hub's cache keeps equal files once
    given = entry_of(conversion, path)
    fetch_sae(given, silent)
    assert sorted(name for name in hub.sent if name) == sorted(files)

    # The loader itself, where the hub is not asked: it reads what is there and nothing else.
    loader = pretrained_sae_loaders.NAMED_PRETRAINED_SAE_LOADERS[conversion]
    with access(local_files_only=True), pytest.raises(Exception) as caught:  # noqa: PT011
        loader("someone/saes", path, "cpu", False, None)
    assert "cache" not in str(cannot_load("It", caught.value))


def entry_of(conversion: str, path: str) -> Entry:
    return Entry(
        release="someone",
        sae_id="one",
        model="gpt2",
        layer=1,
        hook_name=None,
        hook_name_out=None,
        width=None,
        l0=None,
        variance_explained=None,
        neuronpedia_id=None,
        repo_id="someone/saes",
        path=path,
        conversion=conversion,
    )


# --- What was cut off goes on ---------------------------------------------------------------------


def test_a_download_that_was_cut_off_once_goes_on_by_itself(hub: Hub) -> None:
    hub.faults[SAE_WEIGHTS] = Fault(cut_after=1_000_000, times=1, methods=("GET",))
    assert load_sae().cfg.d_sae == FEATURES
    size = (hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS).stat().st_size
    assert hub.sent[SAE_WEIGHTS] == size
    assert hub.ranges == [f"{SAE_WEIGHTS} bytes=0-", f"{SAE_WEIGHTS} bytes=1000000-"]


def test_a_download_that_keeps_being_cut_off_goes_on_in_the_next_run(hub: Hub) -> None:
    hub.faults[SAE_WEIGHTS] = Fault(cut_after=200_000, methods=("GET",))
    began = time.monotonic()
    with pytest.raises(ExplorerError, match=r"broke off\. Run it again: .* where it stopped"):
        load_sae()
    assert time.monotonic() - began < 5
    hub.faults.clear()
    hub.ranges.clear()
    load_sae()
    assert hub.ranges == [f"{SAE_WEIGHTS} bytes=600000-"]
    size = (hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS).stat().st_size
    assert hub.sent[SAE_WEIGHTS] == size
    assert cached("*.incomplete*") == []


def test_a_download_starts_over_where_parts_are_not_to_be_had(hub: Hub) -> None:
    hub.faults[SAE_WEIGHTS] = Fault(cut_after=200_000, methods=("GET",))
    with pytest.raises(ExplorerError, match="broke off"):
        load_sae()
    hub.faults[SAE_WEIGHTS] = Fault(whole=True)
    load_sae()
    original = hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS
    (arrived,) = (path for path in cached("sae_weights.safetensors"))
    assert arrived.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_raising_while_told_the_progress_ends_the_download_and_keeps_what_is_there(
    hub: Hub, error: type[BaseException]
) -> None:
    def stop(text: str, share: float | None) -> None:
        if share is not None and share > 0.3:
            raise error

    hub.faults[SAE_WEIGHTS] = Fault(pause=0.03)
    with pytest.raises(error):
        fetch_sae(entry(), stop)
    assert is_as_before()
    size = (hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS).stat().st_size
    (partial,) = cached("*.incomplete*")
    there = partial.stat().st_size
    assert 0.3 * size < there < size
    hub.faults.clear()
    hub.ranges.clear()
    told: list[float | None] = []
    fetch_sae(entry(), lambda _, share: told.append(share))
    assert hub.ranges == [f"{SAE_WEIGHTS} bytes={there}-"]
    assert told[0] == pytest.approx(there / size, abs=0.01)


@dataclass
class Blob:
    """The SAE's weights in the hub's cache."""

    content: bytes

    @property
    def path(self) -> Path:
        folder = Path(constants.HF_HUB_CACHE) / f"models--{SAE_REPOSITORY.replace('/', '--')}"
        return folder / "blobs" / hashlib.sha256(self.content).hexdigest()

    def put_part(self, suffix: str, idle: float = 0.0) -> Path:
        """Leave the first million bytes, as an earlier try does, idle for so many seconds."""
        part = self.path.with_name(f"{self.path.name}.incomplete{suffix}")
        part.parent.mkdir(parents=True)
        part.write_bytes(self.content[:1_000_000])
        os.utime(part, (time.time() - idle,) * 2)
        return part

    @property
    def lock(self) -> Path:
        folder = Path(constants.HF_HUB_CACHE) / ".locks" / self.path.parent.parent.name
        return folder / f"{self.path.name}.lock"


@pytest.fixture
def blob(hub: Hub) -> Blob:
    return Blob((hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS).read_bytes())


class Refrain:
    """Stops a download when it says a thing for the third time."""

    def __init__(self, words: str) -> None:
        self.words, self.heard = words, 0

    def __call__(self, text: str, share: float | None) -> None:
        self.heard += text == f"{self.words} {SAE_REPOSITORY}" and share is None
        if self.heard == 3:
            raise InterruptedError


def test_what_a_killed_process_has_brought_is_gone_on_with(hub: Hub, blob: Blob) -> None:
    blob.put_part(".0badcafe", idle=60)
    fetch_sae(entry(), silent)
    assert hub.ranges == [f"{SAE_WEIGHTS} bytes=1000000-"]
    assert blob.path.read_bytes() == blob.content
    assert cached("*.incomplete*") == []


def test_a_long_check_of_what_is_there_is_told_and_can_be_stopped(
    hub: Hub, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = blob.put_part("")
    monkeypatch.setattr(downloads, "_BLOCK", 1)
    with pytest.raises(InterruptedError):
        fetch_sae(entry(), Refrain("checking what is there of"))
    assert part.stat().st_size == 1_000_000
    assert hub.ranges == []


@pytest.mark.parametrize("sign", ["lock", "part"])
def test_another_download_of_the_same_file_is_waited_for_and_one_can_stop_waiting(
    hub: Hub, blob: Blob, sign: str
) -> None:
    with ExitStack() as other:
        if sign == "lock":
            blob.lock.parent.mkdir(parents=True)
            other.enter_context(WeakFileLock(blob.lock))
        else:
            other.callback(blob.put_part(".0badcafe").unlink)
        with pytest.raises(InterruptedError):
            fetch_sae(entry(), Refrain("waiting for another download of"))
    assert hub.sent[SAE_WEIGHTS] == 0
    fetch_sae(entry(), silent)
    assert blob.path.read_bytes() == blob.content


@pytest.mark.parametrize("begun", [False, True])
def test_two_downloads_of_a_file_do_no_harm_where_locks_are_ignored(
    hub: Hub, blob: Blob, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(downloads, "WeakFileLock", lambda *_, **__: nullcontext())
    hub.faults[SAE_WEIGHTS] = Fault(pause=0.02)
    if begun:
        blob.put_part("")
    with ThreadPoolExecutor() as pool:
        for load in [pool.submit(fetch_sae, entry(), silent) for _ in range(2)]:
            load.result()
    assert blob.path.read_bytes() == blob.content
    assert cached("*.incomplete*") == []
    if begun:
        assert hub.ranges == [f"{SAE_WEIGHTS} bytes=1000000-"]


# --- What goes wrong ------------------------------------------------------------------------------


def break_config(hub: Hub, **fields: Any) -> None:
    path = hub.repositories / GEMMA / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def gated(hub: Hub) -> None:
    hub.gated.add(GEMMA)


def private(hub: Hub) -> None:
    hub.private.add(GEMMA)


def absent(hub: Hub) -> None:
    shutil.rmtree(hub.repositories / GEMMA)


def no_file(hub: Hub) -> None:
    (hub.repositories / SAE_REPOSITORY / SAE_WEIGHTS).unlink()


def server_error(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(500)


def server_error_on_download(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(503, methods=("GET",))


def server_error_everywhere(hub: Hub) -> None:
    hub.faults[""] = Fault(502)


def server_asks_for_patience(hub: Hub) -> None:
    hub.faults[""] = Fault(503, retry_after=600)


def too_many_requests(hub: Hub) -> None:
    hub.faults["api tree"] = Fault(429, retry_after=120)


def no_hub(hub: Hub) -> None:
    hub.stop()


def arrives_damaged(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(corrupt=True, methods=("GET",))


def too_large(hub: Hub) -> None:
    hub.sizes[WEIGHTS] = 10**15


def only_pickles(hub: Hub) -> None:
    folder = hub.repositories / GEMMA
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def code_on_the_hub(hub: Hub) -> None:
    break_config(hub, auto_map={"AutoConfig": "code.Config"}, model_type="odd")


def unknown_architecture(hub: Hub) -> None:
    break_config(hub, model_type="gemma_99")


def bad_config(hub: Hub) -> None:
    (hub.repositories / GEMMA / "config.json").write_text('{"model_type"')


def bad_weights(hub: Hub) -> None:
    path = hub.repositories / GEMMA / WEIGHTS
    path.write_bytes(b"\xff" * path.stat().st_size)


FAULTS: list[tuple[Callable[[Hub], None], Callable[..., Any], dict[str, Any], str]] = [
    (gated, load_model, {}, r"gated. Accept its licence at https://huggingface.co/google/gemma-2b"),
    (gated, load_model, {"token": TOKEN}, r"your account has no access .* at https://hugg.*gemma"),
    (private, load_model, {}, "no such repository on the hub, or it is private"),
    (private, load_model, {"token": TOKEN}, "no such repository on the hub, or it is private"),
    (absent, load_model, {}, "no such repository on the hub, or it is private"),
    (no_hub, load_model, {}, "the hub cannot be reached and the cache does not hold it"),
    (no_hub, load_sae, {}, "the hub cannot be reached and the cache does not hold it"),
    (no_hub, load_sae, {"force_download": True}, "cannot be fetched anew"),
    (lambda _: None, load_model, {"revision": "v9"}, r"no such revision .*google/gemma-2b"),
    (no_file, load_sae, {}, rf"file of it is not on the hub \(any more\), .*{SAE_PATHS[12]}"),
    (server_error, load_model, {}, r"error of its own \(status 500\). Try again later. .*local_f"),
    (server_error_on_download, load_model, {}, r"error of its own \(status 503\)"),
    (server_error_everywhere, load_model, {}, r"error of its own \(status 502\)"),
    (server_error_everywhere, load_sae, {}, r"error of its own \(status 502\)"),
    (server_asks_for_patience, load_sae, {}, r"error of its own \(status 503\)"),
    (too_many_requests, load_model, {}, "rate limit.* in 120 seconds"),
    (arrives_damaged, load_model, {}, "has arrived damaged. Load it again"),
    (too_large, load_model, {}, r"1,000,000.0 GB are to be .* HF_HOME to a folder on a larger"),
    (only_pickles, load_model, {}, "a pickle file, which can run code .* allow_pickle=True"),
    (unknown_architecture, load_model, {}, r"architecture \(gemma_99\). Upgrade it"),
    (bad_config, load_model, {}, "its configuration is damaged. Load it with force_download=True"),
    (bad_weights, load_model, {}, "its weights are damaged. Load it with force_download=True"),
]


@pytest.mark.parametrize(
    ("arrange", "load", "options", "message"),
    FAULTS,
    ids=[f"{a.__name__}-{load.__name__}-{'-'.join(options)}" for a, load, options, _ in FAULTS],
)
def test_what_cannot_be_had_is_said_within_five_seconds(
    hub: Hub, arrange: Callable[[Hub], None], load: Any, options: dict[str, Any], message: str
) -> None:
    arrange(hub)
    began = time.monotonic()
    with pytest.raises(ExplorerError, match=message) as caught:
        load(**options)
    assert time.monotonic() - began < 5
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"The {'SAE blocks.12' if load is load_sae else 'model google'}")
    assert TOKEN not in text
    assert cached("*.incomplete*") == []


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (gated, r"The model google/gemma-2b.* is gated\. Accept its licence at https://"),
        (private, "The model google/gemma-2b.* no such repository on the hub, or it is private"),
        (no_file, r"The SAE blocks.12.* a file of it is not on the hub \(any more\)"),
        (no_hub, "the hub cannot be reached and the cache does not hold it"),
        (server_error_on_download, r"The model google/gemma-2b.* \(status 503\)"),
        (arrives_damaged, "The model google/gemma-2b.* has arrived damaged"),
        (too_large, "The model google/gemma-2b.* HF_HOME to a folder on a larger disk"),
    ],
)
def test_a_subject_says_it_in_the_same_words(
    hub: Hub, arrange: Callable[[Hub], None], message: str
) -> None:
    arrange(hub)
    began = time.monotonic()
    with pytest.raises(ExplorerError, match=message):
        Subject.from_pretrained(layer=12, device="cpu")
    assert time.monotonic() - began < 5


def test_code_on_the_hub_is_not_run(hub: Hub) -> None:
    code_on_the_hub(hub)
    (hub.repositories / GEMMA / "code.py").write_text("raise SystemExit('it ran')")
    with access():
        fetch_model(GEMMA, None, silent)
        error = raised(lambda: AutoConfig.from_pretrained(GEMMA, trust_remote_code=False))
    assert "not run unless you pass trust_remote_code=True" in str(cannot_load("It", error))


@pytest.mark.parametrize("status", [500, 429])
def test_a_hiccup_of_the_hub_is_waited_out(hub: Hub, status: int) -> None:
    hub.faults["sae_weights.safetensors"] = Fault(status, retry_after=1, times=1)
    assert load_sae().cfg.d_sae == FEATURES


@pytest.mark.parametrize("arrange", [server_error_everywhere, too_many_requests, gated, no_hub])
def test_what_is_in_the_cache_loads_whatever_the_hub_says(
    hub: Hub, arrange: Callable[[Hub], None]
) -> None:
    load_model()
    arrange(hub)
    hub.sent.clear()
    began = time.monotonic()
    load_model()
    assert time.monotonic() - began < 5
    assert not any(path for path in hub.sent)


def test_a_connection_that_is_lost_during_a_load_is_not_waited_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    began = time.monotonic()
    with access():
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        error = raised(lambda: AutoModelForCausalLM.from_pretrained(GEMMA))
    assert time.monotonic() - began < 5
    assert "the connection to the hub is lost" in str(cannot_load("It", error))


def test_a_hub_that_accepts_and_never_answers_is_left_after_four_seconds(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        address = f"http://127.0.0.1:{hole.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        began = time.monotonic()
        with access():
            assert not is_asked()
        assert 3 < time.monotonic() - began < 5


def test_a_slow_answer_is_waited_for(hub: Hub) -> None:
    hub.faults["api tree"] = Fault(pause=6, times=1)
    with access():
        fetch_model(GEMMA, None, silent)
    assert cached(WEIGHTS)


def test_a_request_without_an_answer_is_left_after_ten_seconds_and_others_are_made(
    hub: Hub,
) -> None:
    hub.faults["api tree"] = Fault(silent=True)
    began = time.monotonic()
    with access():
        with pytest.raises(ExplorerError, match=r"the hub does not answer\. Try again later"):
            fetch_model(GEMMA, None, silent)
        assert time.monotonic() - began < 12
        assert AutoConfig.from_pretrained(GEMMA).model_type == "gemma"


def test_a_name_that_is_never_resolved_is_left_after_four_seconds(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(20))
    began = time.monotonic()
    with access():
        assert not is_asked()
    assert time.monotonic() - began < 5
    ended.set()


def test_offline_by_choice_asks_nothing_and_says_whose_choice_it_was(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> ExplorerError:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            AutoModelForCausalLM.from_pretrained(GEMMA)
        return cannot_load("It", caught.value)

    with access(local_files_only=True):
        assert "local_files_only is set. Leave it out to download it" in str(load())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with access():
        assert "Start without HF_HUB_OFFLINE to download it" in str(load())
    assert hub.requests == []
    monkeypatch.undo()


def test_damaged_files_in_the_cache_are_fetched_anew_on_demand(hub: Hub) -> None:
    load_sae()
    for path in cached("*.safetensors"):
        path.write_bytes(b"\xff" * path.stat().st_size)  # through the link
    with pytest.raises(ExplorerError, match=r"damaged\. Load it with force_download=True"):
        load_sae()
    assert load_sae(force_download=True).cfg.d_sae == FEATURES


def test_pickled_weights_come_where_the_user_trusts_them(hub: Hub) -> None:
    folder = hub.repositories / GEMMA
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    loaded = load_model(allow_pickle=True)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_gemma_scope_2_loads_from_the_cache_without_the_hub(hub: Hub) -> None:
    found = choose("gemma-scope-2-270m-pt-res", sae_id="layer_5_width_16k_l0_small")
    place = hub.repositories / found.repo_id / found.path
    place.mkdir(parents=True)
    tensors = {
        "w_enc": torch.ones(8, 16),
        "w_dec": torch.ones(16, 8),
        "b_enc": torch.ones(16),
        "b_dec": torch.ones(8),
        "threshold": torch.ones(16),
    }
    save_file(tensors, place / "params.safetensors")
    fetch_sae(found, silent)
    hub.ranges.clear()
    with access():
        SAE.from_pretrained(found.release, found.sae_id)
    assert hub.ranges == []
    hub.stop()
    with access():
        sae = SAE.from_pretrained(found.release, found.sae_id)
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (8, 16)


def test_each_of_two_loads_at_once_asks_the_hub_as_it_was_told(hub: Hub) -> None:
    inside = threading.Barrier(2)

    def load(local_files_only: bool) -> tuple[bool, bool]:
        with access(local_files_only):
            inside.wait(10)
            asked = is_asked()
            with access():
                nested = is_asked()
            inside.wait(10)
        return asked, nested

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(load, (True, False))) == [(False, False), (True, True)]
    assert is_as_before()
    with access(), access(local_files_only=True):
        assert not is_asked()


@pytest.mark.parametrize("local_files_only", [False, True])
def test_what_the_user_asks_of_the_hub_meanwhile_is_left_alone(
    hub: Hub, local_files_only: bool
) -> None:
    def as_the_user() -> tuple[int, int]:
        hf_hub_download(GEMMA, "config.json")
        address = f"{constants.ENDPOINT}/api/models/{GEMMA}"
        return (
            get_session().get(address).status_code,
            get_session().post(f"{address}/revision/main", timeout=60).status_code,
        )

    hub.faults["api info"] = hub.faults["api revision"] = Fault(503)
    with access(local_files_only), ThreadPoolExecutor() as pool:
        hub.requests.clear()
        assert pool.submit(as_the_user).result() == (503, 503)
    assert hub.requests[-2:] == [f"GET {GEMMA} api info", f"POST {GEMMA} api revision"]
    assert len(hub.requests) == 4  # HEAD and GET of the file


def test_what_could_change_the_hub_is_sent_once(hub: Hub) -> None:
    hub.faults[""] = Fault(503)
    with access():
        get_session().post(f"{constants.ENDPOINT}/api/models/{GEMMA}/revision/main")
    assert hub.requests == [f"POST {GEMMA} api revision"]


@pytest.mark.parametrize(
    ("local_files_only", "raised", "expected", "message"),
    [
        (
            False,
            ImportError("no socksio"),
            ExplorerError,
            "cannot be set up: no socksio. See HTTPS",
        ),
        (True, OSError(2, "no file"), ExplorerError, "SSL_CERT_FILE in the environment"),
        (True, KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_connection_that_cannot_be_set_up_leaves_everything_as_it_was(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    local_files_only: bool,
    raised: BaseException,
    expected: type[BaseException],
    message: str | None,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", lambda: fail_with(raised))
        close_session()
        with pytest.raises(expected, match=message), access(local_files_only):
            pass
    assert is_as_before()
    assert load_sae().cfg.d_sae == FEATURES


def test_the_stand_in_hub_serves_other_processes(originals: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("hub.py")
    with subprocess.Popen(
        [sys.executable, script, originals], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        look = (
            "from huggingface_hub import hf_hub_download as get;"
            f"print(open(get({GEMMA!r}, 'config.json')).read())"
        )
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        found = subprocess.run(
            [sys.executable, "-c", look],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        server.terminate()
        assert server.wait(10) == 0
    assert json.loads(found.stdout)["model_type"] == "gemma"


# --- Tokens ---------------------------------------------------------------------------------------


def test_a_token_opens_what_is_gated_and_is_shown_nowhere(
    hub: Hub, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.gated.add(GEMMA)
    hub.members.add(TOKEN)
    told: list[str] = []
    model = load_model(lambda text, _: told.append(text), token=TOKEN)
    assert set(hub.authorizations) == {f"Bearer {TOKEN}"}
    shown = [*told, *hub.requests, *capfd.readouterr(), caplog.text, repr(model), str(model.config)]
    shown += [path.read_text(errors="ignore") for path in cached("*") if path.is_file()]
    assert TOKEN not in "".join(shown)


@pytest.mark.parametrize(
    "text",
    [
        f"401 for https://user:{TOKEN}@huggingface.co/google/gemma-2b",
        f"headers: {{'authorization': 'Bearer {TOKEN}'}}",
        f"https://cdn.hf.co/x?X-Amz-Signature=0a1b2c&token={TOKEN}: refused",
        "https://user:secret@mirror.example/google/gemma-2b: refused",
        "the token my/own secret is not valid",
        "https://mirror.example/?key=my%2Fown%20secret",
        "authorization: Basic dXNlcjpzZWNyZXQ=",
    ],
)
def test_what_lets_somebody_in_is_taken_out_of_messages(text: str) -> None:
    for cleaned in (
        without_secrets(text, "my/own secret"),
        str(cannot_load("It", RuntimeError(text), token="my/own secret")),
    ):
        for secret in (TOKEN, "secret", "my%2F", "0a1b2c", "dXNlcjpz"):
            assert secret not in cleaned


# --- Errors of other libraries --------------------------------------------------------------------


class Evil:
    """An object whose pickle runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("it ran",))


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return caught.value


def fail_with(error: BaseException) -> None:
    raise error


def read_npz(folder: Path, content: bytes) -> Any:
    (folder / "params.npz").write_bytes(content)
    return np.load(folder / "params.npz")["W_enc"]


def read_pt(folder: Path, content: Any) -> Any:
    path = folder / "ae.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return torch.load(path)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda folder: read_npz(folder, b""), "weights are damaged. .*force_download=True"),
        (lambda folder: read_npz(folder, b"PK\x03\x04" + bytes(99)), "weights are damaged"),
        (lambda folder: read_npz(folder, b"\xff" * 99), "weights are damaged"),
        (lambda folder: read_pt(folder, b"\xff" * 99), "weights are damaged"),
        (lambda folder: read_pt(folder, bytes(99)), "weights are damaged"),
        (lambda folder: read_pt(folder, b"PK\x03\x04" + bytes(99)), "weights are damaged"),
        (lambda folder: read_pt(folder, Evil()), "can run code, it is not read"),
        (lambda _: json.loads("{"), "configuration is damaged. .*force_download=True"),
        (lambda folder: (folder / "no").read_text(), "No such file"),
        (lambda _: torch.empty(10**15), 'smaller dtype, as in dtype="bfloat16"'),
        (lambda _: bytearray(10**18), 'smaller dtype, as in dtype="bfloat16"'),
        (lambda _: fail_with(OSError(errno.ENOSPC, "x")), "disk is full. .*HF_HOME"),
        (lambda _: fail_with(RuntimeError("No space left on device")), "disk is full"),
        (lambda _: fail_with(PermissionError(errno.EACCES, "x")), "set HF_HOME to a folder"),
        (lambda _: fail_with(torch.OutOfMemoryError("x")), "a smaller dtype"),
        (lambda _: fail_with(RuntimeError("CUDA error: no kernel")), 'Pass device="cpu"'),
        (lambda _: fail_with(ImportError("sentencepiece?")), "pip install sentencepiece"),
        (lambda _: __import__("no_such_package"), "pip install no_such_package"),
    ],
)
def test_what_other_libraries_raise_is_said_in_plain_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Callable[[Path], Any], message: str
) -> None:
    error = cannot_load("It", raised(lambda: fail(tmp_path)))
    assert re.search(message, str(error)), str(error)
    assert "\n" not in str(error)
    assert "it ran" not in capsys.readouterr().out
