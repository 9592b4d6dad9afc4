"""The subject of all analyses: a language model, its tokenizer and the SAEs under study."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.model import sites
from sae_explorer.model.decoding import quiet_forward
from sae_explorer.model.geometry import EmbeddingGeometry
from sae_explorer.results import Provenance, package_versions

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sae_explorer.model.ghost import Vector

#: What stands for the made-up word in a prompt.
PLACEHOLDER = "{ghost}"

#: Scales that are customary for a model; every other model takes the mean distance of its token
#: embeddings from their centroid.
_CUSTOMARY_SCALE = {"google/gemma-2b": 3.8}

#: Gemma's customary placeholder token, by its id in Gemma's vocabulary.
_GEMMA_PLACEHOLDER = ("OSS", 23070)

#: Entries that tokenizers reserve and never produce from ordinary text, most common first.
_RESERVED = (
    "<unused0>",
    "[unused0]",
    "<|reserved_special_token_0|>",
    "<|extra_0|>",
    "<extra_id_0>",
)

_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


@dataclass(frozen=True, eq=False)
class StudiedSAE:
    """One SAE of a subject: the SAELens object, and where it came from.

    Parameters
    ----------
    sae
        The live SAELens object; nothing is copied.
    sae_id
        Its id within the release, the folder's name, or its hook point.
    release
        The SAELens release, empty for an SAE from elsewhere.
    """

    sae: SAE[Any]
    sae_id: str
    release: str = ""

    @property
    def hook_name(self) -> str:
        """Hook point in TransformerLens' terms, as the SAE's metadata give it."""
        return str(self.sae.cfg.metadata.hook_name or "")

    @property
    def layer(self) -> int | None:
        """Index of the block at whose hook point the SAE reads, None if its name has none."""
        return sites.layer_of(self.hook_name)

    @property
    def neuronpedia_id(self) -> str | None:
        """The SAE's id at Neuronpedia, such as ``"gemma-2b/12-res-jb"``; None if it has none."""
        return self.sae.cfg.metadata.neuronpedia_id or None

    @property
    def width(self) -> int:
        """Number of features (latents)."""
        return int(self.sae.cfg.d_sae)

    def encoder(self, feature: int) -> Vector:
        """Return the encoder column of a feature, shape ``[d_model]``, float32."""
        self.check_feature(feature)
        return _as_numpy(self.sae.W_enc[:, feature])

    def decoder(self, feature: int) -> Vector:
        """Return the decoder row of a feature, shape ``[d_model]``, float32."""
        self.check_feature(feature)
        return _as_numpy(self.sae.W_dec[feature])

    def check_feature(self, feature: int) -> None:
        """Raise :class:`ExplorerError` unless the SAE has this feature."""
        if not 0 <= feature < self.width:
            raise ExplorerError(
                f"There is no feature {feature}: {self.sae_id} has {self.width:,} features, "
                f"0 to {self.width - 1}."
            )

    def describe(self) -> dict[str, Any]:
        """Return what provenance says of the SAE."""
        return {
            "id": self.sae_id,
            "release": self.release,
            "hook_name": self.hook_name,
            "architecture": self.sae.cfg.architecture(),
            "width": self.width,
            "fingerprint": fingerprint(self.sae.W_enc, self.sae.W_dec),
        }


class Subject:
    """A language model with its tokenizer and SAEs. It is read, never changed.

    Parameters
    ----------
    model
        A Hugging Face causal language model; it is used as it is and not copied.
    tokenizer
        Its tokenizer.
    sae
        A SAELens SAE, a list of them, or a map from name to SAE. None gives a subject without
        features, for plain vectors and tokens. The first one is the one that ``feature=`` means;
        :meth:`select` chooses another.

    Raises
    ------
    ExplorerError
        If an SAE does not fit the model (another width, a layer that the model has not), reads
        outside the residual stream, or holds NaN.

    Examples
    --------
    >>> subject = Subject(model, tokenizer, sae)  # doctest: +SKIP
    >>> subject.sae.width  # doctest: +SKIP
    16384
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sae: SAE[Any] | Sequence[SAE[Any] | StudiedSAE] | Mapping[str, SAE[Any]] | None = None,
    ) -> None:
        if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
            raise ExplorerError(
                f"The model is a {type(model).__name__}; a Hugging Face causal language model is "
                "needed, such as AutoModelForCausalLM.from_pretrained(...) returns."
            )
        if not hasattr(tokenizer, "convert_tokens_to_ids"):
            raise ExplorerError(
                f"The tokenizer is a {type(tokenizer).__name__}; a Hugging Face tokenizer is "
                "needed, such as AutoTokenizer.from_pretrained(...) returns."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.saes = _as_studied(sae)
        self._selected = 0
        for studied in self.saes:
            _check_fit(model, studied)

    @classmethod
    def demo(cls, layer: int = 3) -> Subject:
        """Return the bundled dictionary model, offline, with the SAE at ``layer`` selected (1 or 3).

        The model is small and was trained on definitions, some of them of vectors in the place of a
        word; what it shows says nothing of how well larger models read such vectors.
        """
        from sae_explorer.loading import demo

        return demo.load().select(layer=layer)

    @classmethod
    def from_folder(
        cls,
        model: str | os.PathLike[str],
        saes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Subject:
        """Load a model and SAEs from folders on disk.

        Parameters
        ----------
        model
            Folder written by ``save_pretrained``, with the tokenizer in it.
        saes
            Folders in SAELens' format (``cfg.json`` and ``sae_weights.safetensors``), or one.
        device
            ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None takes a GPU when there is one.
        dtype
            ``"float32"``, ``"bfloat16"``, ``"float16"``; None takes float32 on a CPU and the dtype
            of the file elsewhere.
        """
        from sae_explorer.loading import folder

        several = [saes] if isinstance(saes, (str, os.PathLike)) else saes
        paths = [Path(path) for path in several]
        return folder.load(Path(model), paths, device=device, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        release: str = "gemma-2b-res-jb",
        *,
        layer: int | None = None,
        sae_id: str | None = None,
        model: str | PreTrainedModel | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Subject:
        """Load a release of SAELens' registry and the model it was trained on.

        Parameters
        ----------
        release
            Name of the release, such as ``"gemma-2b-res-jb"``.
        layer, sae_id
            Which SAE of the release: its layer, where that has only one, or its id.
        model
            A hub id or a live model to use in place of the one that the SAE names.
        device, dtype
            As in :meth:`from_folder`.
        """
        from sae_explorer.loading import hub

        return hub.load(
            release, layer=layer, sae_id=sae_id, model=model, device=device, dtype=dtype
        )

    def select(self, *, layer: int | None = None, sae_id: str | None = None) -> Self:
        """Return the same subject with another of its SAEs as the one that ``feature=`` means.

        Raises
        ------
        ExplorerError
            If none of the SAEs is meant, or several are.
        """
        meant = [
            index
            for index, studied in enumerate(self.saes)
            if layer in (None, studied.layer) and sae_id in (None, studied.sae_id)
        ]
        if len(meant) != 1:
            wanted = "" if sae_id is None else f" {sae_id!r}"
            wanted += "" if layer is None else f" at layer {layer}"
            possible = ", ".join(f"{s.sae_id} (layer {s.layer})" for s in self.saes) or "none"
            how_many = "several SAEs" if meant else "no SAE"
            raise ExplorerError(f"The subject has {how_many}{wanted}. It has: {possible}.")
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen._selected = meant[0]
        return chosen

    def __repr__(self) -> str:
        saes = ", ".join(f"{s.sae_id} ({s.width:,} features)" for s in self.saes) or "no SAE"
        return f"Subject({self.model_id}, {saes}, {self.dtype}, {self.device})"

    @property
    def sae(self) -> StudiedSAE:
        """The SAE that ``feature=`` means."""
        if not self.saes:
            raise ExplorerError(
                "The subject has no SAE, so it has no features. Give one: "
                "Subject(model, tokenizer, sae); or ask for a vector= or token=."
            )
        return self.saes[self._selected]

    @property
    def model_id(self) -> str:
        """The model's hub id; for a model from disk only its folder's name, never the path."""
        name = str(getattr(self.model.config, "_name_or_path", "") or "")
        looks_local = Path(name).is_absolute() or name.startswith(".") or Path(name).exists()
        return (Path(name).name if looks_local else name) or type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """Device of the embedding matrix, where inputs go."""
        return self.embedding_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embedding matrix."""
        return self.embedding_weight.dtype

    @property
    def embedding_weight(self) -> Tensor:
        """The input embedding matrix as stored, shape ``[vocabulary, d_model]``."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight.detach()

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.embedding_weight.shape[1])

    @property
    def vocabulary_size(self) -> int:
        """Number of rows of the embedding matrix, which may exceed the tokenizer's entries."""
        return int(self.embedding_weight.shape[0])

    @property
    def geometry(self) -> EmbeddingGeometry:
        """Centroid, norms, mean distance and principal components of the token embeddings."""
        # Kept with the model, not with the subject: all subjects on one model share it.
        return EmbeddingGeometry.of(self.model)

    @property
    def default_scale(self) -> float:
        """Length of a ghost's direction unless one is given."""
        return _CUSTOMARY_SCALE.get(self.model_id) or self.geometry.mean_distance

    @property
    def lock(self) -> threading.RLock:
        """The lock that every run on this model holds: hooks are global to a model object."""
        with _locks_guard:
            return _locks.setdefault(self.model, threading.RLock())

    @cached_property
    def default_ghost_token(self) -> str:
        """The vocabulary entry whose place the vector takes unless one is given.

        A reserved entry where the tokenizer has one, since the entry's probability is removed from
        the answers; Gemma's customary ``"OSS"``; else a rare entry that is a word of its own.
        """
        name, token_id = _GEMMA_PLACEHOLDER
        if self.tokenizer.convert_tokens_to_ids(name) == token_id:
            return name
        vocabulary = self._vocabulary
        for entry in _RESERVED:
            if entry in vocabulary:
                return entry
        names = {index: entry for entry, index in vocabulary.items()}
        special = set(self.tokenizer.all_special_ids)
        for index in sorted(names, reverse=True):
            if index in special or index >= self.vocabulary_size:
                continue
            text = self.tokenizer.decode([index])
            if (
                text.strip()
                and self.tokenizer.encode(f'"{text}"', add_special_tokens=False).count(index) == 1
            ):
                return names[index]
        raise ExplorerError("The vocabulary has no entry fit as a placeholder; give ghost_token=.")

    def token_id(self, token: str) -> int:
        """Return the id of a vocabulary entry, given as the tokenizer writes it or as plain text.

        Raises
        ------
        ExplorerError
            If the text is no single entry of the vocabulary.
        """
        vocabulary = self._vocabulary
        if token in vocabulary:
            return int(vocabulary[token])
        pieces = self.tokenizer.encode(token, add_special_tokens=False)
        if len(pieces) == 1:
            return int(pieces[0])
        shown = [self.tokenizer.convert_ids_to_tokens(piece) for piece in pieces]
        hint = did_you_mean(token, vocabulary)
        raise ExplorerError(
            f"{token!r} is no single token: the tokenizer splits it into {shown}.{hint}"
        )

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Return each token's text as it reads inside a line, a leading space included.

        A token that is only part of a character is written as its bytes, such as ``<0xE2>``.
        """
        known = self._known_texts
        new = [i for i in dict.fromkeys(map(int, token_ids)) if i not in known]
        if new:
            # Decoders drop a leading space at the start of a text, so each token follows an anchor.
            anchor = self._anchor
            lead = self._decode([anchor])
            decoded = self.tokenizer.batch_decode(
                [[anchor, token_id] for token_id in new],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
            for token_id, text in zip(new, decoded, strict=True):
                piece = text.removeprefix(lead)
                if not piece or "\ufffd" in piece:
                    piece = str(self.tokenizer.convert_ids_to_tokens(token_id) or "")
                known[token_id] = piece
        return [known[int(token_id)] for token_id in token_ids]

    def continuation_text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """Return the text that a continuation adds after a prompt."""
        lead = self._decode(list(prompt_ids))
        whole = self._decode([*prompt_ids, *token_ids])
        if whole.startswith(lead):
            return whole[len(lead) :]
        return "".join(self.token_texts(token_ids))

    def continuation_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the token ids of a text that follows a prompt, as the tokenizer would write it."""
        # Tokenizers treat a word after a quote otherwise than at the start of a text, so the answer
        # is tokenized behind the prompt's last words, not alone.
        lead = prompt.rsplit(PLACEHOLDER, 1)[-1]
        before = self.tokenizer.encode(lead, add_special_tokens=False)
        whole = self._without_end(self.tokenizer.encode(lead + answer, add_special_tokens=False))
        if lead and whole[: len(before)] == before:
            return whole[len(before) :]
        return [int(i) for i in self.tokenizer.encode(answer, add_special_tokens=False)]

    @contextmanager
    def run(self) -> Iterator[None]:
        """Hold the model for one run: its lock, no gradients, no autocast."""
        with self.lock, quiet_forward(self.model):
            yield

    def _decode(self, token_ids: list[int]) -> str:
        return str(
            self.tokenizer.decode(
                token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a text."""
        end = self.tokenizer.eos_token_id
        return () if end is None else (int(end),)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        # The tokenizer builds this anew on every call, which takes 0.1 s for 256,000 entries.
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def _known_texts(self) -> dict[int, str]:
        """Texts of the tokens met so far: a growing tree asks for the same ones again and again."""
        return {}

    @cached_property
    def _anchor(self) -> int:
        """An entry after which a token's text reads as it does inside a line."""
        return int(self.tokenizer.encode("a", add_special_tokens=False)[-1])

    def encode_prompt(self, prompt: str, ghost_token: str) -> list[int]:
        """Return the prompt's token ids with the placeholder as one token each time.

        Parameters
        ----------
        prompt
            Text with ``{ghost}`` once or more.
        ghost_token
            The vocabulary entry to stand there.

        Raises
        ------
        ExplorerError
            If the prompt has no placeholder, or the tokenizer does not keep the entry in one piece.
        """
        parts = prompt.split(PLACEHOLDER)
        if len(parts) == 1:
            raise ExplorerError(
                f"The prompt {prompt!r} has no placeholder. Write {PLACEHOLDER} where the made-up "
                f'word goes, as in: A typical definition of "{PLACEHOLDER}" would be "'
            )
        ghost_id = self.token_id(ghost_token)
        if ghost_id in self.tokenizer.encode(" ".join(parts), add_special_tokens=False):
            raise ExplorerError(
                f"The prompt {prompt!r} holds the placeholder's own token {ghost_token!r}, which "
                "would take the vector too. Choose another ghost_token."
            )
        text = self._decode([ghost_id])
        ids = self._without_end(self.tokenizer.encode(prompt.replace(PLACEHOLDER, text)))
        if ids.count(ghost_id) == len(parts) - 1:
            return ids
        # The tokenizer joins the entry to its neighbours: put the pieces together by hand, and
        # accept them only if they read as the prompt does.
        spliced = self._without_end(self.tokenizer.encode(parts[0]))
        for part in parts[1:]:
            spliced.append(ghost_id)
            if part:
                spliced += self.tokenizer.encode(part, add_special_tokens=False)
        reads = self.tokenizer.decode(spliced, skip_special_tokens=False)
        wanted = self.tokenizer.decode(ids, skip_special_tokens=False)
        if spliced.count(ghost_id) != len(parts) - 1 or reads != wanted:
            pieces = self.tokenizer.convert_ids_to_tokens(ids)
            raise ExplorerError(
                f"The tokenizer does not keep the placeholder {ghost_token!r} in one piece here: "
                f"{pieces}. Choose another ghost_token, such as {self.default_ghost_token!r}, or "
                "put quotes or spaces around it in the prompt."
            )
        return spliced

    def _without_end(self, ids: list[int]) -> list[int]:
        """Drop the end-of-text token that some tokenizers append: the answer is to follow."""
        end = self.tokenizer.eos_token_id
        keep = len(ids) > 1 and end is not None and ids[-1] == end
        return list(ids[:-1] if keep else ids)

    def provenance(self, *, with_sae: bool) -> Provenance:
        """Return where a result computed now comes from."""
        config: Any = self.model.config
        model = {
            "id": self.model_id,
            "revision": str(getattr(config, "_commit_hash", None) or ""),
            "architecture": type(self.model).__name__,
            "attention": str(getattr(config, "_attn_implementation", "") or ""),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "fingerprint": fingerprint(*_sample_of_weights(self.model)),
        }
        sae = self.sae.describe() if with_sae else {}
        return Provenance(model=model, sae=sae, versions=package_versions())


def fingerprint(*tensors: Tensor) -> str:
    """Return 16 hexadecimal digits that tell one set of weights from another.

    A sample of every tensor is hashed, so that it takes no time whatever the size.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // 4096)
        sample = flat[::step].float().cpu().contiguous().numpy()
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()[:16]


def _sample_of_weights(model: PreTrainedModel) -> list[Tensor]:
    parameters = list(model.parameters())
    return [parameters[0], parameters[len(parameters) // 2], parameters[-1]]


def _as_numpy(tensor: Tensor) -> Vector:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().copy()


def _as_studied(
    sae: SAE[Any] | Sequence[SAE[Any] | StudiedSAE] | Mapping[str, SAE[Any]] | None,
) -> tuple[StudiedSAE, ...]:
    if sae is None:
        return ()
    if isinstance(sae, Mapping):
        return tuple(StudiedSAE(value, name) for name, value in sae.items())
    several = sae if isinstance(sae, Sequence) else [sae]
    studied = []
    for item in several:
        if isinstance(item, StudiedSAE):
            studied.append(item)
        elif hasattr(item, "W_dec") and hasattr(item, "cfg"):
            studied.append(StudiedSAE(item, str(item.cfg.metadata.hook_name or "sae")))
        else:
            raise ExplorerError(
                f"The SAE is a {type(item).__name__}; a SAELens SAE is needed, such as "
                "SAE.load_from_disk(...) or SAE.from_pretrained(...) returns."
            )
    return tuple(studied)


def _check_fit(model: PreTrainedModel, studied: StudiedSAE) -> None:
    """Refuse an SAE that cannot belong to the model."""
    name = studied.sae_id
    d_model = int(model.get_input_embeddings().weight.shape[1])
    hook = studied.hook_name
    if hook and not sites.is_residual(hook):
        raise ExplorerError(
            f"{name} reads at {hook}; only SAEs of the residual stream (hook_resid_pre and "
            "hook_resid_post) are supported by this version."
        )
    for side, width in (
        ("reads", studied.sae.W_enc.shape[0]),
        ("writes", studied.sae.W_dec.shape[1]),
    ):
        if width != d_model:
            raise ExplorerError(
                f"{name} {side} vectors of {width} numbers, but the residual stream of "
                f"{type(model).__name__} has {d_model}. Use the model that the SAE was trained on."
            )
    layers = sites.text_config(model).num_hidden_layers
    if studied.layer is not None and studied.layer >= layers:
        raise ExplorerError(
            f"{name} belongs to layer {studied.layer}, but {type(model).__name__} has {layers} "
            f"layers, 0 to {layers - 1}. Use the model that the SAE was trained on."
        )
    for label, weights in (("encoder", studied.sae.W_enc), ("decoder", studied.sae.W_dec)):
        # Sums find a NaN or an infinity anywhere; in float32, since not every device has more.
        if not np.isfinite(float(weights.detach().float().sum(dim=0).abs().max())):
            raise ExplorerError(
                f"The {label} weights of {name} hold NaN or infinite numbers. Load the SAE again, "
                "or train it with a smaller learning rate."
            )
