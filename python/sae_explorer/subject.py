"""The subject of all analyses: a language model, its tokenizer and the SAEs under study."""

from __future__ import annotations

import os
import re
import reprlib
import threading
import weakref
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading.registry import DEFAULT_RELEASE
from sae_explorer.model.decoding import quiet_forward
from sae_explorer.model.geometry import EmbeddingGeometry
from sae_explorer.results import Provenance, package_versions
from sae_explorer.studied_sae import StudiedSAE, as_studied, fingerprint
from sae_explorer.text import bytes_spelled_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from sae_lens import SAE
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sae_explorer.model.ghost import Vector
    from sae_explorer.model.sites import Site

#: What stands for the made-up word in a prompt, and for a second one.
PLACEHOLDER = "{ghost}"
SECOND_PLACEHOLDER = "{ghost2}"

_PLACES = re.compile(f"({re.escape(PLACEHOLDER)}|{re.escape(SECOND_PLACEHOLDER)})")

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
    other_model
        Whether the model may have another name than the one that an SAE was trained on, such as one
        that descends from it.

    Raises
    ------
    ExplorerError
        If an SAE does not fit the model (another name, another width, a hook point that the model
        has not), or holds NaN.

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
        *,
        other_model: bool = False,
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
        if model.get_input_embeddings().weight.is_meta:
            raise ExplorerError(
                "The model's token embeddings are not in memory: it was loaded without weights, or "
                "did not fit. Load it in a smaller dtype, or on device='cpu'."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.saes = as_studied(sae)
        self._selected = 0
        self._other_model = other_model
        for studied in self.saes:
            studied.check_fit(model, self._name_to_check)

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
        allow_pickle: bool = False,
        **model_kwargs: Any,
    ) -> Subject:
        """Load a model and SAEs from folders on disk.

        Parameters
        ----------
        model
            Folder written by ``save_pretrained``, with the tokenizer in it.
        saes
            Folders in SAELens' format (``cfg.json`` and ``sae_weights.safetensors``), or one.
        device, dtype, allow_pickle, **model_kwargs
            As in :meth:`from_pretrained`.
        """
        from sae_explorer.loading import folder

        several = [saes] if isinstance(saes, (str, os.PathLike)) else saes
        return folder.load(
            Path(model),
            [Path(path) for path in several],
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
            **model_kwargs,
        )

    @classmethod
    def from_pretrained(
        cls,
        release: str = DEFAULT_RELEASE,
        *,
        layer: int | None = None,
        layers: Sequence[int] | None = None,
        sae_id: str | Sequence[str] | None = None,
        model: str | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        allow_pickle: bool = False,
        other_model: bool = False,
        **model_kwargs: Any,
    ) -> Subject:
        """Load SAEs of a release of SAELens' registry and the model they were trained on.

        Parameters
        ----------
        release
            Name of the release, such as ``"gemma-2b-res-jb"``; :func:`sae_explorer.registry` lists
            them.
        layer, sae_id
            Which SAE of the release: its layer or its id. Where a layer has several, the one that
            is called canonical, if there is just one. Several ids load several SAEs; the first one
            is selected.
        layers
            Several layers, likewise.
        model
            A Hub id, a folder, or a live model to use in place of the one that the SAE names. A
            live one is used as it is and where it is.
        tokenizer
            To use in place of the model's own; needed for a live model that does not say where it
            is from.
        device
            ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``, which spreads the model
            over all GPUs; None takes a GPU where there is one, and all of them for a model that is
            too large for one.
        dtype
            ``"float32"``, ``"bfloat16"``, ``"float16"``; None takes float32 on a CPU and the dtype
            of the file elsewhere.
        revision
            Branch, tag or commit of the model's repository.
        local_files_only
            Whether to look in the Hub's cache only, and never ask the Hub.
        force_download
            Whether to fetch again what is in the cache already, because it is damaged.
        allow_pickle
            Whether weights in a pickle file (``.pt``, ``.bin``) may be read. They can be made to run
            code, which PyTorch's restricted reader is there to prevent.
        other_model
            As for the class.
        **model_kwargs
            Passed on to ``AutoModelForCausalLM.from_pretrained``, such as ``attn_implementation=``,
            ``token=`` or ``trust_remote_code=``.

        Raises
        ------
        ExplorerError
            If it is not clear what is meant, cannot be fetched or read, or does not fit together.
        """
        from sae_explorer.loading import hub

        return hub.load(
            release,
            layer=layer,
            layers=layers,
            sae_id=sae_id,
            model=model,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            revision=revision,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_pickle=allow_pickle,
            other_model=other_model,
            **model_kwargs,
        )

    def select(
        self, *, layer: int | None = None, sae_id: str | None = None, release: str | None = None
    ) -> Self:
        """Return the same subject with another of its SAEs as the one that ``feature=`` means.

        Parameters
        ----------
        layer, sae_id, release
            Which one: whatever of these tells it from the others.

        Raises
        ------
        ExplorerError
            If none of the SAEs is meant, or several are.
        """
        if layer is not None and not hasattr(layer, "__index__"):
            raise ExplorerError(f"layer is {layer!r}; it must be a whole number.")
        meant = [
            index
            for index, studied in enumerate(self.saes)
            if layer in (None, studied.layer)
            and sae_id in (None, studied.sae_id)
            and release in (None, studied.release)
        ]
        if len(meant) != 1:
            wanted = "" if sae_id is None else f" {sae_id!r}"
            wanted += "" if layer is None else f" at layer {layer}"
            wanted += f" of {release}" if release else ""
            mixed = len({studied.release for studied in self.saes}) > 1
            possible = ", ".join(
                f"{s.sae_id} (layer {s.layer}{f', {s.release}' if mixed and s.release else ''})"
                for s in self.saes
            )
            how_many = "several SAEs" if meant else "no SAE"
            raise ExplorerError(
                f"The subject has {how_many}{wanted}. It has: {possible or 'none'}."
            )
        return self._but(_selected=meant[0])

    def with_sae(self, studied: StudiedSAE) -> Self:
        """Return the same subject with one more SAE, which is selected.

        One of the same release and id takes the place of the one that is there.

        Raises
        ------
        ExplorerError
            If it does not fit the model.
        """
        studied.check_fit(self.model, self._name_to_check)
        name = (studied.release, studied.sae_id)
        others = tuple(sae for sae in self.saes if (sae.release, sae.sae_id) != name)
        return self._but(saes=(*others, studied), _selected=len(others))

    def without_sae(self, studied: StudiedSAE) -> Self:
        """Return the same subject without one of its SAEs, which is not the selected one."""
        kept = tuple(sae for sae in self.saes if sae is not studied)
        return self._but(saes=kept, _selected=kept.index(self.sae))

    def _but(self, **changes: Any) -> Self:
        """Return a subject that shares everything with this one but for what is changed."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__ | changes)
        return changed

    def __repr__(self) -> str:
        saes = "no SAE"
        if self.saes:
            others = [s.sae_id for s in self.saes if s is not self.sae]
            saes = f"{self.sae.sae_id} ({self.sae.width:,} features)"
            saes += f", not selected: {', '.join(others)}" if others else ""
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
        name = self._given_name
        return (Path(name).name if self._is_local else name) or type(self.model).__name__

    @property
    def _given_name(self) -> str:
        return str(getattr(self.model.config, "_name_or_path", "") or "")

    @property
    def _is_local(self) -> bool:
        name = self._given_name
        return Path(name).is_absolute() or name.startswith(".") or Path(name).exists()

    @property
    def _name_to_check(self) -> str | None:
        """The model's hub id where SAEs are to be held against it."""
        return None if self._other_model or self._is_local else self._given_name

    def site(self) -> Site:
        """Return where in the model the selected SAE reads."""
        return self.sae.site(self.model)

    def site_out(self) -> Site:
        """Return where in the model the selected SAE writes: for all but transcoders where it reads."""
        return self.sae.site_out(self.model)

    def direction(self, feature: int, weights: str) -> Vector:
        """Return the residual stream's direction of a feature of the selected SAE.

        Parameters
        ----------
        feature
            Index of the feature.
        weights
            ``"encoder"`` or ``"decoder"``.

        Returns
        -------
        numpy.ndarray
            Shape ``[d_model]``, float32. Where the SAE reads or writes outside the residual stream,
            its vector is mapped into it; see :meth:`Site.residual_direction`.
        """
        return self.sae.direction(self.model, feature, weights)

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
        return self.second_ghost_token("")

    def second_ghost_token(self, first: str) -> str:
        """Return an entry for a second vector: the best one that is not the first's."""
        for entry in self._placeholders():
            if entry != first:
                return entry
        raise ExplorerError("The vocabulary has no entry fit as a placeholder; give ghost_token=.")

    def _placeholders(self) -> Iterator[str]:
        """Yield vocabulary entries whose place a vector may take, the best one first."""
        name, token_id = _GEMMA_PLACEHOLDER
        if self.tokenizer.convert_tokens_to_ids(name) == token_id:
            yield name
        vocabulary = self._vocabulary
        for entry in _RESERVED:
            if entry in vocabulary:
                yield entry
            if (another := entry.replace("0", "1")) in vocabulary:
                yield another
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
                yield names[index]

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
            f"{reprlib.repr(token)} is no single token: the tokenizer splits it into "
            f"{reprlib.repr(shown)}.{hint}"
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
                    entry = str(self.tokenizer.convert_ids_to_tokens(token_id) or "")
                    piece = bytes_spelled_out(entry, piece) or entry
                known[token_id] = piece
        return [known[int(token_id)] for token_id in token_ids]

    def texts_in_place(self, token_ids: Sequence[int]) -> list[str]:
        """Return what each token of a text adds to it, as the text reads."""
        texts, before = [], ""
        for end, own in enumerate(self.token_texts(token_ids), 1):
            whole = self._decode(list(token_ids[:end]))
            # A part of a character is written by itself, and the last part brings the whole of it.
            known = whole.startswith(before) and not whole.endswith("\ufffd")
            texts.append(whole[len(before) :] if known else own)
            before = whole.rstrip("\ufffd")
        return texts

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
        lead = re.split(_PLACES, prompt)[-1]
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
        """Ids of the tokens that end a text: the tokenizer's, and others beside it in the model's list."""
        end = self.tokenizer.eos_token_id
        if end is None:
            return ()
        listed = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        also = listed if isinstance(listed, list) and end in listed else []
        return tuple(dict.fromkeys(map(int, (end, *also))))

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

    def encode_prompt(self, prompt: str, ghost_token: str, second_token: str = "") -> list[int]:
        """Return the prompt's token ids with each placeholder as one token each time.

        Parameters
        ----------
        prompt
            Text with ``{ghost}`` once or more, and perhaps ``{ghost2}``.
        ghost_token, second_token
            The vocabulary entries to stand there.

        Raises
        ------
        ExplorerError
            If the prompt has no placeholder, or the tokenizer does not keep the entry in one piece.
        """
        # Texts and placeholders by turns.
        pieces = re.split(_PLACES, prompt)
        if PLACEHOLDER not in pieces:
            raise ExplorerError(
                f"The prompt {prompt!r} has no placeholder. Write {PLACEHOLDER} where the made-up "
                f'word goes, as in: A typical definition of "{PLACEHOLDER}" would be "'
            )
        entries = {PLACEHOLDER: ghost_token, SECOND_PLACEHOLDER: second_token}
        ids_of = {place: self.token_id(entries[place]) for place in dict.fromkeys(pieces[1::2])}
        held = self.tokenizer.encode(" ".join(pieces[::2]), add_special_tokens=False)
        for place, ghost_id in ids_of.items():
            if ghost_id in held:
                raise ExplorerError(
                    f"The prompt {prompt!r} holds the placeholder's own token {entries[place]!r}, "
                    "which would take the vector too. Choose another ghost_token."
                )
        if len(set(ids_of.values())) < len(ids_of):
            raise ExplorerError(
                f"{PLACEHOLDER} and {SECOND_PLACEHOLDER} stand for the same token {ghost_token!r}. "
                "Choose another ghost_token."
            )
        wanted_ids = [ids_of[place] for place in pieces[1::2]]
        texts = [self._decode([ids_of[p]]) if n % 2 else p for n, p in enumerate(pieces)]
        ids = self._without_end(self.tokenizer.encode("".join(texts)))
        if [i for i in ids if i in wanted_ids] == wanted_ids:
            return ids
        # The tokenizer joins the entry to its neighbours: put the pieces together by hand, and
        # accept them only if they read as the prompt does.
        spliced = self._without_end(self.tokenizer.encode(pieces[0]))
        for ghost_id, part in zip(wanted_ids, pieces[2::2], strict=True):
            spliced.append(ghost_id)
            if part:
                spliced += self.tokenizer.encode(part, add_special_tokens=False)
        reads = self.tokenizer.decode(spliced, skip_special_tokens=False)
        wanted = self.tokenizer.decode(ids, skip_special_tokens=False)
        if [i for i in spliced if i in wanted_ids] != wanted_ids or reads != wanted:
            split = self.tokenizer.convert_ids_to_tokens(ids)
            raise ExplorerError(
                f"The tokenizer does not keep the placeholder {ghost_token!r} in one piece here: "
                f"{split}. Choose another ghost_token, such as {self.default_ghost_token!r}, or "
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


def _sample_of_weights(model: PreTrainedModel) -> list[Tensor]:
    # What is offloaded to disk is not here as numbers.
    parameters = [weight for weight in model.parameters() if not weight.is_meta]
    return [parameters[0], parameters[len(parameters) // 2], parameters[-1]]
