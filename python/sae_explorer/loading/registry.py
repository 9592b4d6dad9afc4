"""SAELens' table of pretrained SAEs, read without importing SAELens.

The table is a file of 1.5 MB in SAELens' package. What it says of each SAE, and what its names give
away, is kept as an index in the user's cache folder: reading that takes milliseconds.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from platformdirs import user_cache_dir

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.results import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    #: By release: the model's hub id, the repository, the conversion, and a row for each SAE: the
    #: fields of :class:`Entry` that are its own, in the order of ``_OWN``.
    Index = dict[str, tuple[str, str, str, list[list[Any]]]]

#: What is loaded where nothing else is said.
DEFAULT_RELEASE = "gemma-2b-res-jb"

_OWN = (
    "sae_id",
    "path",
    "layer",
    "hook_name",
    "hook_name_out",
    "width",
    "l0",
    "variance_explained",
    "neuronpedia_id",
)

#: To be raised when the index gets other contents from the same table.
_FORMAT = 1

_RESIDUAL = "hook_resid_post"

#: Where SAEs read and where transcoders write, by the name of SAELens' loader: the first row whose
#: text stands in ``repository/path``. A loader that is not here takes the hook point from the SAE's
#: own configuration; for those the id tells, if anything.
_HOOKS: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "connor_rob_hook_z": (("", "attn.hook_z", None),),
    "deepseek_r1": (("", _RESIDUAL, None),),
    "dictionary_learning_1": (("", _RESIDUAL, None),),
    "gemma_2": (
        ("/embedding/", "hook_embed", None),
        ("-res/", _RESIDUAL, None),
        ("-mlp/", "hook_mlp_out", None),
        ("-att/", "attn.hook_z", None),
    ),
    "gemma_2_transcoder": (("", "ln2.hook_normalized", "hook_mlp_out"),),
    "gemma_3": (
        ("/resid_post", _RESIDUAL, None),
        ("/attn_out", "attn.hook_z", None),
        ("/mlp_out", "hook_mlp_out", None),
        ("/transcoder", "hook_mlp_in", "hook_mlp_out"),
        ("/clt", "hook_mlp_in", "hook_mlp_out"),
    ),
    "goodfire": (("", _RESIDUAL, None),),
    "llama_scope": (
        ("-LXR-", _RESIDUAL, None),
        ("-LXA-", "hook_attn_out", None),
        ("-LXM-", "hook_mlp_out", None),
    ),
    "llama_scope_r1_distill": (("", _RESIDUAL, None),),
    "mwhanna_transcoder": (("", "mlp.hook_in", "hook_mlp_out"),),
    "qwen_scope": (("", _RESIDUAL, None),),
    "temporal": (("", _RESIDUAL, None),),
}

#: How ids name a layer: blocks.12.hook_resid_post, layer_12/width_16k/canonical, layer12,
#: resid_post_layer_12_trainer_1, l12r_32x. An embedding comes before layer 0.
_LAYER = re.compile(r"(?:^|[/_])(?:blocks\.|layer_?)(\d+)|^l(\d+)[ram]_|^(embedding)/")

#: A hook point in an id: the start of blocks.8.hook_resid_pre_768 and blocks.4.hook_z__trainer_1.
_SPELLED = re.compile(r"blocks\.\d+\.(?:\w+\.)?hook_[a-z]+(?:_[a-z]+)*")

#: How a path, a repository and an id at Neuronpedia name a width, in this order of trust. A unit of
#: "pow" is an exponent of two, "x" a multiple of the width of the model, which is 4,096 there.
_WIDTHS = (
    re.compile(r"width_(\d+)(k|m)"),
    re.compile(r"width-2(pow)(\d+)"),
    re.compile(r"Llama3_1-8B-Base-L\d+[RAM]-(\d+)(x)"),
    re.compile(r"_ds(\d+)()_"),
    re.compile(r"hook_[a-z_]+_(\d+)()"),
    re.compile(r"\bv5_(\d+)(k)_"),
    re.compile(r"-[Ww]-?(\d+)([Kk])-"),
    re.compile(r"/[\w.-]*[-_](\d+)(k|m)(?:-oai|__\w+)?$"),
)

_AVERAGE_L0 = re.compile(r"average_l0_(\d+)")

_GEMMA_2 = re.compile(r"gemma-scope-(\d+b)-(pt|it)")


@dataclass(frozen=True)
class Entry:
    """What the registry knows of an SAE.

    Parameters
    ----------
    release, sae_id
        Its names in SAELens' registry.
    model
        Hub id of the model it was trained on.
    layer
        Layer it is at; an embedding counts as layer 0. None where no name tells.
    hook_name
        Where it reads, in TransformerLens' terms. None where only its own configuration tells.
    hook_name_out
        Where it writes, for a transcoder.
    width
        Number of features (latents); None where no name tells.
    l0
        Mean number of features that are active at a token; None where unknown.
    variance_explained
        Share of the variance of the activations that it explains; None where unknown.
    neuronpedia_id
        Its id at Neuronpedia, if it is there.
    repo_id, path
        Where it is on the hub.
    conversion
        Name of the loader that SAELens reads it with.
    """

    release: str
    sae_id: str
    model: str
    layer: int | None
    hook_name: str | None
    hook_name_out: str | None
    width: int | None
    l0: float | None
    variance_explained: float | None
    neuronpedia_id: str | None
    repo_id: str
    path: str
    conversion: str

    @property
    def pickled(self) -> bool:
        """Whether its weights are a pickle file, which can be made to run code."""
        # SAELens' own format is a folder of safetensors, whatever the folder is called.
        return self.conversion == "dictionary_learning_1" or (
            self.conversion != "sae_lens" and self.path.endswith((".pt", ".pth"))
        )

    @property
    def label(self) -> str:
        """What tells it from others of its layer, in a few words: ``"width 16k, L0 82"``."""
        width = None if self.width is None else f"width {short_width(self.width)}"
        l0 = None if self.l0 is None else f"L0 {self.l0:g}"
        return ", ".join(filter(None, (width, l0))) or self.sae_id

    def row(self) -> dict[str, Any]:
        """Return it as a row of :func:`registry`; what is unknown is None."""
        return {
            "release": self.release,
            "id": self.sae_id,
            "model": self.model,
            "layer": self.layer,
            "hook": self.hook_name,
            "width": self.width,
            "l0": self.l0,
            "variance_explained": self.variance_explained,
            "neuronpedia_id": self.neuronpedia_id,
            "pickled": self.pickled,
        }


def releases() -> tuple[str, ...]:
    """Return the names of the releases, in SAELens' order."""
    return tuple(_index())


def entries(release: str | None = None) -> tuple[Entry, ...]:
    """Return the SAEs of a release, or of all, in SAELens' order.

    Raises
    ------
    ExplorerError
        If there is no such release.
    """
    names = releases() if release is None else (_known_release(release),)
    return tuple(entry for name in names for entry in _entries_of(name))


def choose(release: str, layer: int | None = None, sae_id: str | None = None) -> Entry:
    """Return the SAE that is meant by a release and a layer or an id.

    Where a layer has several, the canonical one is meant: the one whose id says so, or that the
    release's canonical edition has too.

    Raises
    ------
    ExplorerError
        If the release or the id is unknown, or it is not clear which one is meant.
    """
    release = _known_release(release)
    found = _entries_of(release)
    _check_layer(layer)
    if sae_id is not None:
        return _by_id(release, found, sae_id, layer)
    if layer is None and len({entry.layer for entry in found}) == 1:
        layer = found[0].layer
    at_layer = [entry for entry in found if layer in (None, entry.layer)]
    canonical = [] if layer is None else _canonical(release, at_layer)
    for meant in (at_layer, canonical):
        if len(meant) == 1:
            return meant[0]
    if layer is not None and at_layer:
        at_layer.sort(key=lambda e: (e not in canonical, e.width or 0, e.l0 or 0))
        choices = _some([_described(entry) for entry in at_layer])
        raise ExplorerError(
            f"{release} has {len(at_layer)} SAEs at layer {layer}. Give sae_id=, one of {choices}."
        )
    has = f"no SAE at layer {layer}" if layer is not None else f"{len(found):,} SAEs"
    raise ExplorerError(
        f"{release} has {has}. Give sae_id=, one of {_some([repr(e.sae_id) for e in found])}; "
        f"or layer=, one of {spans(entry.layer for entry in found)}."
    )


def find(
    model: str | None = None, layer: int | None = None, release: str | None = None
) -> tuple[Entry, ...]:
    """Return the SAEs that match all that is given; see :func:`registry`."""
    _check_layer(layer)
    index = _index()
    names: Sequence[str] = releases() if release is None else (_known_release(release),)
    if model is not None:
        names = [name for name in names if _same_model(model, index[name][0])]
        if not names:
            _refuse_model(model, release)
    found = [entry for name in names for entry in _entries_of(name)]
    matching = tuple(entry for entry in found if layer in (None, entry.layer))
    if not matching:
        words = ((" in", release), (" of", model), (" at layer", layer))
        asked = "".join(f"{word} {given}" for word, given in words if given is not None)
        raise ExplorerError(
            f"SAELens' registry has no SAE{asked}; there are some at layers "
            f"{spans(entry.layer for entry in found)}."
        )
    return matching


def registry(
    model: str | None = None, layer: int | None = None, release: str | None = None
) -> pd.DataFrame:
    """Return the SAEs of SAELens' registry as a table.

    Nothing is downloaded, and neither SAELens nor torch is imported.

    Parameters
    ----------
    model
        Only those of this model: its hub id, or its last part, or TransformerLens' name for it.
    layer
        Only those at this layer.
    release
        Only those of this release.

    Returns
    -------
    pandas.DataFrame
        A row for each SAE: ``release``, ``id``, ``model`` (hub id), ``layer``, ``hook`` (hook
        point it reads), ``width`` (number of features), ``l0`` (mean number of active features),
        ``variance_explained`` (share, 0 to 1), ``neuronpedia_id`` and ``pickled`` (whether its
        weights are a pickle file, which needs ``allow_pickle=True``). What is unknown is missing.

    Raises
    ------
    ExplorerError
        If the registry has no such model or release, or nothing matches.
    """
    import pandas as pd

    frame = pd.DataFrame([entry.row() for entry in find(model, layer, release)])
    whole, real = ["layer", "width"], ["l0", "variance_explained"]
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(real, "float64"))


def overview(found: Iterable[Entry]) -> list[dict[str, str]]:
    """Return a row of text for each release among the SAEs."""
    by_release: dict[str, list[Entry]] = {}
    for entry in found:
        by_release.setdefault(entry.release, []).append(entry)
    return [
        {
            "release": release,
            "model": own[0].model,
            "SAEs": f"{len(own):,}",
            "layers": spans(entry.layer for entry in own),
            "hooks": ", ".join(dict.fromkeys(map(_kind, own))),
            "widths": ", ".join(map(short_width, sorted({e.width for e in own if e.width}))),
        }
        for release, own in by_release.items()
    ]


@lru_cache(maxsize=256)
def hub_id(model_name: str) -> str:
    """Return the hub id of a model that an SAE names, perhaps by TransformerLens' short name."""
    return model_name if "/" in model_name else _aliases().get(model_name.lower(), model_name)


def short_width(width: int) -> str:
    """Return a width as releases name it: 16k for 16,384, 131k for 131,072, 1m for 1,048,576."""
    if width % (1 << 20) == 0:
        return f"{width >> 20}m"
    if width % 1024:
        return f"{width:,}"
    is_power_of_two = width & (width - 1) == 0
    return f"{width // (1000 if is_power_of_two else 1024)}k"


def spans(layers: Iterable[int | None]) -> str:
    """Return layers in few words: ``"0-5, 9, 12-25"``."""
    runs: list[list[int]] = []
    for layer in sorted({layer for layer in layers if layer is not None}):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    # A run of two is shorter as two numbers.
    words = [[f"{r[0]}-{r[-1]}"] if len(r) > 2 else map(str, r) for r in runs]
    return ", ".join(word for run in words for word in run)


def _entries_of(release: str) -> list[Entry]:
    model, repo_id, conversion, rows = _index()[release]
    shared: dict[str, Any] = {
        "release": release,
        "model": model,
        "repo_id": repo_id,
        "conversion": conversion,
    }
    return [Entry(**shared, **dict(zip(_OWN, row, strict=True))) for row in rows]


def _check_layer(layer: object) -> None:
    if layer is not None and not hasattr(layer, "__index__"):
        raise ExplorerError(f"layer is {layer!r}; it must be a whole number.")


def _known_release(release: str) -> str:
    """Return a release's name as the registry writes it."""
    index = _index()
    if release in index:
        return release
    for name in index:
        if name.lower() == release.lower():
            return name
    of_model = [name for name, (of, *_) in index.items() if _same_model(release, of)]
    if of_model:
        raise ExplorerError(
            f"{release!r} is a model, not a release. Releases of its SAEs: {_some(of_model)}."
        )
    raise ExplorerError(
        f"SAELens' registry has no release {release!r}.{did_you_mean(release, index)} "
        "See what it has with: sae-explorer list"
    )


def _refuse_model(model: str, release: str | None) -> NoReturn:
    """Say that there is no such model, or that the release is of another one."""
    known = {of for of, *_ in _index().values()}
    if release is not None and any(_same_model(model, of) for of in known):
        of = _index()[_known_release(release)][0]
        raise ExplorerError(
            f"{release} is of the model {of}, not of {model}; leave one of them out."
        )
    hint = did_you_mean(model, sorted(known | {name.rpartition("/")[2] for name in known}))
    inside = sorted(name for name in known if model.lower() in name.lower())
    hint = f" It has {_some(inside)}." if inside else hint
    raise ExplorerError(
        f"SAELens' registry has no SAE of the model {model!r}.{hint} "
        "See what it has with: sae-explorer list"
    )


def _by_id(release: str, found: list[Entry], sae_id: str, layer: int | None) -> Entry:
    ids = [entry.sae_id for entry in found]
    if sae_id not in ids:
        raise ExplorerError(
            f"{release} has no SAE {sae_id!r}.{did_you_mean(sae_id, ids)} "
            f"It has {_some(list(map(repr, ids)))}."
        )
    entry = found[ids.index(sae_id)]
    if layer not in (None, entry.layer):
        raise ExplorerError(f"{sae_id} is not at layer {layer}; give layer= or sae_id=, not both.")
    return entry


def _canonical(release: str, at_layer: list[Entry]) -> list[Entry]:
    """Return those SAEs of a layer that stand for the others."""
    named = [entry for entry in at_layer if "canonical" in entry.sae_id]
    edition = f"{release}-canonical"
    if named or edition not in _index():
        return named
    paths = {entry.path for entry in _entries_of(edition)}
    return [entry for entry in at_layer if entry.path in paths]


def _described(entry: Entry) -> str:
    return repr(entry.sae_id) + (f" ({entry.label})" if entry.label != entry.sae_id else "")


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _kind(entry: Entry) -> str:
    """Return an SAE's hook point without its layer; for a transcoder also where it writes."""
    hooks = [hook for hook in (entry.hook_name, entry.hook_name_out) if hook]
    return " > ".join(re.sub(r"^blocks\.\d+\.", "", hook) for hook in hooks) or "?"


def _same_model(given: str, model: str) -> bool:
    given, model = hub_id(given).lower(), model.lower()
    if "/" in given and "/" in model:
        return given == model
    return given.rpartition("/")[2] == model.rpartition("/")[2]


# --- The index --------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _index() -> Index:
    """Return the index: from the cache, or from SAELens' table."""
    table = _file_of("sae_lens", "pretrained_saes.yaml")
    if table is None:
        raise ExplorerError("SAELens' registry is not there. Install it with: pip install sae-lens")
    status = table.stat()
    name = f"{metadata.version('sae-lens')}-{status.st_size}-{status.st_mtime_ns}"
    cache = (
        Path(user_cache_dir("sae-explorer", appauthor=False)) / f"registry-{_FORMAT}-{name}.json"
    )
    index = _read(cache)
    if index is None:
        index = _parse(table)
        _write(cache, index)
    return index


def _read(cache: Path) -> Index | None:
    """Return what a file of the cache holds; None if that is not what was written."""
    with suppress(OSError):
        digest, _, content = cache.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == digest:
            index: Index = json.loads(content)
            return index
    return None


def _write(cache: Path, index: Index) -> None:
    content = json.dumps(index, separators=(",", ":")).encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    # Without a place to keep it, the index is only built anew in the next process.
    with suppress(OSError, ExplorerError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache, digest + b"\n" + content)


def _parse(table: Path) -> Index:
    """Build the index from SAELens' table."""
    import yaml

    # The loader that is written in C is five times as fast; not every PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with table.open(encoding="utf-8") as stream:
        releases = yaml.load(stream, Loader=loader)  # noqa: S506 - a safe one, either way
    index: Index = {}
    for release, content in releases.items():
        repo_id = str(content["repo_id"])
        conversion = content.get("conversion_func") or "sae_lens"
        model = _model(str(content["model"]), repo_id)
        # One SAE of the table holds a whole release by a slip. SAELens sees its id and path alone.
        rows = [_row(repo_id, conversion, sae) for sae in content["saes"]]
        index[release] = (model, repo_id, conversion, rows)
    return index


def _row(repo_id: str, conversion: str, sae: dict[str, Any]) -> list[Any]:
    """Return the fields of an SAE in the order of ``_OWN``."""
    sae_id, path = str(sae["id"]), str(sae["path"])
    neuronpedia_id = sae.get("neuronpedia")
    named = _LAYER.search(sae_id)
    layer = int(named[1] or named[2] or 0) if named else None
    reads, writes = _hooks(repo_id, conversion, sae_id, path, layer)
    # The measured value in a path is right where the table's own differs from it.
    average = _AVERAGE_L0.search(path)
    l0 = average[1] if average else sae.get("l0")
    # Goodfire's two have it in no name; SAELens' loader knows it.
    width = 65536 if conversion == "goodfire" else _width(path, repo_id, neuronpedia_id or "")
    explained = sae.get("variance_explained")
    numbers = [None if number is None else float(number) for number in (l0, explained)]
    return [sae_id, path, layer, reads, writes, width, *numbers, neuronpedia_id]


def _hooks(
    repo_id: str, conversion: str, sae_id: str, path: str, layer: int | None
) -> tuple[str | None, str | None]:
    """Return where an SAE reads and, for a transcoder, writes, as SAELens' loader would say."""
    for text, reads, writes in _HOOKS.get(conversion, ()):
        if text in f"{repo_id}/{path}":
            if reads == "hook_embed":
                return reads, None
            if layer is None:
                return None, None
            return f"blocks.{layer}.{reads}", writes and f"blocks.{layer}.{writes}"
    spelled = _SPELLED.match(sae_id)
    return (spelled[0] if spelled else None), None


def _width(*names: str) -> int | None:
    """Return the number of features that a path, a repository or another name tells."""
    for pattern in _WIDTHS:
        for name in names:
            found = pattern.search(name)
            if found is None:
                continue
            if found[1] == "pow":
                return 1 << int(found[2])
            number, unit = int(found[1]), found[2].lower()
            if unit == "k":
                # Widths are powers of two: 131k is 131,072, as 128k is.
                power = 1 << (number * 1000).bit_length()
                return power if power // 1000 == number else number * 1024
            return number * {"": 1, "x": 4096, "m": 1 << 20}[unit]
    return None


def _model(name: str, repo_id: str) -> str:
    """Return the hub id of the model of a release."""
    # The table calls the instruction-tuned model of one release by the plain one's name.
    gemma = _GEMMA_2.search(repo_id)
    if gemma:
        return f"google/gemma-2-{gemma[1]}" + ("-it" if gemma[2] == "it" else "")
    return hub_id(name)


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Return TransformerLens' names of models, in small letters, with what they stand for.

    Its table is a file of literals, read as such: importing it would import torch.
    """
    table = _file_of("transformer_lens", "supported_models.py")
    if table is None:
        return {}
    aliases: dict[str, str] = {}
    for node in ast.parse(table.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MODEL_ALIASES":
            for name, others in ast.literal_eval(node.value or node.target).items():
                aliases |= {other.lower(): name for other in (name, *others)}
    return aliases


def _file_of(package: str, name: str) -> Path | None:
    """Return the path of a file of a package that is not imported for it."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = [Path(folder) / name for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)
