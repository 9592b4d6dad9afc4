"""One SAE under study: the SAELens object, where it came from, and its directions."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_explorer.errors import ExplorerError
from sae_explorer.model import sites

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformers import PreTrainedModel

    from sae_explorer.model.ghost import Vector
    from sae_explorer.model.sites import Site


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
    trained_on
        Hub id of the model that it was trained on; empty where that is not known.
    """

    sae: SAE[Any]
    sae_id: str
    release: str = ""
    trained_on: str = ""

    @property
    def hook_name(self) -> str:
        """Hook point that the SAE reads, in TransformerLens' terms, as its metadata give it."""
        return str(self._metadata.hook_name or self._metadata.hf_hook_name or "")

    @property
    def layer(self) -> int | None:
        """Index of the block at whose hook point the SAE reads, None if its name has none."""
        return 0 if self.hook_name == "hook_embed" else sites.layer_of(self.hook_name)

    @property
    def reads_centred(self) -> bool:
        """Whether the SAE was trained on activations whose mean over the width is taken away.

        TransformerLens' option ``center_writing_weights`` does so, which changes no model that
        begins every part with a LayerNorm; the model itself, as Hugging Face has it, keeps the mean.
        """
        options = self._metadata.model_from_pretrained_kwargs or {}
        return bool(options.get("center_writing_weights"))

    @property
    def neuronpedia_id(self) -> str | None:
        """The SAE's id at Neuronpedia, such as ``"gemma-2b/12-res-jb"``; None if it has none."""
        return self._metadata.neuronpedia_id or None

    @property
    def width(self) -> int:
        """Number of features (latents)."""
        return int(self.sae.cfg.d_sae)

    @property
    def label(self) -> str:
        """What tells the SAE from others of its layer, in a few words."""
        return f"{self.width:,} features"

    def encoder(self, feature: int) -> Vector:
        """Return the encoder column of a feature at the hook point it reads, float32."""
        self.check_feature(feature)
        return _as_numpy(self._encoder_weights[:, feature])

    def decoder(self, feature: int) -> Vector:
        """Return the decoder row of a feature at the hook point it writes to, float32."""
        self.check_feature(feature)
        return _as_numpy(self.sae.W_dec[feature])

    def direction(self, model: PreTrainedModel, feature: int, weights: str) -> Vector:
        """Return the direction of the residual stream that a feature stands for.

        Parameters
        ----------
        model
            The language model, whose weights map a direction from elsewhere into the stream.
        feature
            Index of the feature.
        weights
            ``"encoder"`` or ``"decoder"``.

        Returns
        -------
        numpy.ndarray
            Shape ``[d_model]``, float32; see :meth:`Site.residual_direction`.
        """
        reads = weights == "encoder"
        own = self.encoder(feature) if reads else self.decoder(feature)
        if reads and self.reads_centred:
            own = own - own.mean()
        if not self.hook_name:
            return own
        site = self.site(model) if reads else self.site_out(model)
        return _as_numpy(site.residual_direction(torch.from_numpy(own)))

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
            "fingerprint": fingerprint(self._encoder_weights, self.sae.W_dec),
        }

    def site(self, model: PreTrainedModel) -> Site:
        """Return where in a model the SAE reads.

        Raises
        ------
        ExplorerError
            If the model has no such place, or the SAE does not say which it is.
        """
        if not self.hook_name:
            raise ExplorerError(
                f"{self.sae_id} does not say where in the model it reads. Set it before, as in: "
                "sae.cfg.metadata.hook_name = 'blocks.12.hook_resid_post'"
            )
        return sites.resolve(model, self.hook_name, self._metadata.hf_hook_name or None)

    def site_out(self, model: PreTrainedModel) -> Site:
        """Return where in a model the SAE writes: for all but transcoders where it reads."""
        metadata = self._metadata
        name = metadata.hook_name_out or metadata.hf_hook_name_out
        if not name:
            return self.site(model)
        return sites.resolve(model, str(name), metadata.hf_hook_name_out or None)

    def check_fit(self, model: PreTrainedModel, model_name: str | None) -> None:
        """Refuse a model that the SAE cannot belong to.

        Parameters
        ----------
        model
            The language model.
        model_name
            Its Hub id; None where that is not known, or another one is wanted.

        Raises
        ------
        ExplorerError
            If the model has another name than the one that the SAE was trained on, lacks its hook
            point, or has another width there; or if the weights hold NaN.
        """
        if model_name:
            self._check_name(model_name)
        # An SAE that does not say where it reads is taken to be one of the residual stream.
        d_model = int(model.get_input_embeddings().weight.shape[1])
        for does, own, site in (
            ("reads", self._encoder_weights[:, 0], self.hook_name and self.site(model)),
            ("writes", self.sae.W_dec[0], self.hook_name and self.site_out(model)),
        ):
            width = site.width if site else d_model
            if width not in (None, len(own)):  # None: only a forward tells
                where = site.name if site else "the residual stream"
                raise ExplorerError(
                    f"{self.sae_id} {does} vectors of {len(own)} numbers, but {where} of "
                    f"{type(model).__name__} has {width}. Use the model that the SAE was trained on."
                )
        for label, weights in self.sae.named_parameters():
            # Sums find a NaN or an infinity anywhere; in float32, since not every device has more.
            total = weights.detach().sum(dim=0, dtype=torch.float32).abs().max().item()
            # The threshold of a feature that is never to fire may be infinite.
            if math.isnan(total) or (weights.ndim > 1 and math.isinf(total)):
                raise ExplorerError(
                    f"The weights {label} of {self.sae_id} hold NaN or infinite numbers. Load the "
                    "SAE again, or train it with a smaller learning rate."
                )

    def _check_name(self, model_name: str) -> None:
        from sae_explorer.loading import registry

        trained_on = self.trained_on or registry.hub_id(str(self._metadata.model_name or ""))
        check_same_model(self.sae_id, model_name, trained_on)

    @property
    def _metadata(self) -> Any:
        return self.sae.cfg.metadata

    @property
    def _encoder_weights(self) -> Tensor:
        """The encoder, shape ``[d_in, width]``; that of a tied SAE is its decoder."""
        tied = getattr(self.sae.cfg, "tied_weights", False)
        weights: Tensor = self.sae.W_dec.T if tied else self.sae.W_enc
        return weights


def as_studied(
    sae: SAE[Any] | Sequence[SAE[Any] | StudiedSAE] | Mapping[str, SAE[Any]] | None,
) -> tuple[StudiedSAE, ...]:
    """Return one SAE, several, or a map from name to SAE, as the SAEs of a subject."""
    if sae is None:
        return ()
    if isinstance(sae, Mapping):
        return tuple(StudiedSAE(value, name) for name, value in sae.items())
    several = sae if isinstance(sae, Sequence) else [sae]
    studied: list[StudiedSAE] = []
    for item in several:
        if isinstance(item, StudiedSAE):
            studied.append(item)
        elif hasattr(item, "W_dec") and hasattr(item, "cfg"):
            name = str(item.cfg.metadata.hook_name or "sae")
            like = sum(re.sub(r" \(\d+\)$", "", known.sae_id) == name for known in studied)
            studied.append(StudiedSAE(item, f"{name} ({like + 1})" if like else name))
        else:
            raise ExplorerError(
                f"The SAE is a {type(item).__name__}; a SAELens SAE is needed, such as "
                "SAE.load_from_disk(...) or SAE.from_pretrained(...) returns."
            )
    return tuple(studied)


def fingerprint(*tensors: Tensor) -> str:
    """Return 16 hexadecimal digits that tell one set of weights from another.

    A sample of every tensor is hashed, so that it takes no time whatever the size.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        step = max(1, tensor.numel() // 4096)
        at = torch.arange(0, tensor.numel(), step, device=tensor.device)
        # By index: to flatten a transposed matrix is to copy it.
        picked = tensor.detach()[torch.unravel_index(at, tensor.shape)]
        sample = picked.float().cpu().contiguous().numpy()
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()[:16]


def check_same_model(sae_id: str, name: str, trained_on: str) -> None:
    """Refuse a model of another name than the one that an SAE was trained on, if that is known."""

    def bare(hub_id: str) -> str:
        # Models move, and have mirrors.
        return hub_id.rsplit("/", 1)[-1].casefold().removeprefix("meta-")

    if trained_on and bare(name) != bare(trained_on):
        raise ExplorerError(
            f"{sae_id} was trained on {trained_on}, not on {name}. Use that model; or, if this one "
            "descends from it, pass other_model=True."
        )


def _as_numpy(tensor: Tensor) -> Vector:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().copy()
