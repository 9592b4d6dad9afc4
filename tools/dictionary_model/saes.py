"""Train the sparse autoencoders on the finished model's residual stream.

SAELens' own trainer does the training; this module gives it activations, and a
faster choice of the batch's largest ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor, multiprocessing, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from corpus import Corpus
    from transformers import GemmaForCausalLM

__all__ = ["LAYERS", "MODEL_NAME", "SAESettings", "collect", "residuals", "train_saes"]

MODEL_NAME = "sae-explorer/dictionary"
DATASET = "WordNet 3.0 glosses"
LAYERS = (1, 3)
WEIGHTS_FILE = "sae_weights.safetensors"
CONFIG_FILE = "cfg.json"


@dataclass(frozen=True)
class SAESettings:
    """Settings of one autoencoder's training."""

    layer: int
    matryoshka: bool
    seed: int
    latents: int = 1536
    k: int = 12
    passes: float = 2.0
    batch: int = 2048
    lr: float = 1e-3


class _BatchTopK(nn.Module):
    """Keep the ``k * rows`` largest activations of a batch.

    SAELens looks for them among all; most of a batch lies far below the last
    one kept, so here only what exceeds a running lower bound is looked at.
    """

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self._bound = 0.0

    def forward(self, x: Tensor) -> Tensor:
        acts = x.relu()
        wanted = int(self.k * acts.shape[:-1].numel())
        values = acts.detach()
        candidates = values[values > self._bound]
        if len(candidates) < wanted:
            candidates = values[values > 0]
        if len(candidates) <= wanted:
            return acts
        last = candidates.topk(wanted, sorted=False).values.min()
        self._bound = 0.8 * last.item()
        return acts * (values >= last)


class _FastBatchTopKSAE(BatchTopKTrainingSAE):  # type: ignore[misc]
    def get_activation_fn(self) -> nn.Module:
        return _BatchTopK(self.cfg.k)


class _FastMatryoshkaSAE(MatryoshkaBatchTopKTrainingSAE):  # type: ignore[misc]
    def get_activation_fn(self) -> nn.Module:
        return _BatchTopK(self.cfg.k)


@torch.no_grad()
def residuals(model: GemmaForCausalLM, ids: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    """Residual stream behind some decoder layers, ``blocks.i.hook_resid_post``.

    Parameters
    ----------
    model
        The language model.
    ids : Tensor, shape (rows, length)
        Token ids.
    layers
        Decoder layers.

    Returns
    -------
    list of Tensor, shape (rows, length, d_model)
        One for each layer.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found[layer] = output if isinstance(output, Tensor) else output[0]

        return hook

    hooks = [model.model.layers[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        model.model(input_ids=ids, use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return [found[layer] for layer in layers]


def collect(model: GemmaForCausalLM, corpus: Corpus, seed: int, most: int) -> list[Tensor]:
    """Activations at all `LAYERS` over the corpus's rows, as float16.

    The end token is left out: nobody asks what a text means once it is over.

    Returns
    -------
    list of Tensor, shape (positions, d_model)
        At most ``most`` positions for each layer.
    """
    parts: list[list[Tensor]] = [[] for _ in LAYERS]
    count = 0
    for members in corpus.batches(8192, [seed]):
        ids = torch.from_numpy(np.stack([corpus.rows[i] for i in members])).long()[:, :-1]
        for part, found in zip(parts, residuals(model, ids, LAYERS), strict=True):
            part.append(found.flatten(0, 1).half())
        count += ids.numel()
        if count >= most:
            break
    return [torch.cat(part)[:most] for part in parts]


def train_saes(
    activations: Sequence[Tensor], settings: Sequence[SAESettings], folder: Path
) -> None:
    """Train several autoencoders at once, each in a process of one thread.

    Parameters
    ----------
    activations
        For each autoencoder its activations, see :func:`train_sae`.
    settings
        For each autoencoder its settings.
    folder
        Gets one folder for each, ``sae_layer_<layer>``.
    """
    jobs = list(zip(activations, settings, strict=True))
    multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _worker, args=(jobs, folder), nprocs=len(jobs)
    )


def _worker(rank: int, jobs: list[tuple[Tensor, SAESettings]], folder: Path) -> None:
    torch.set_num_threads(1)
    activations, settings = jobs[rank]
    train_sae(activations, settings, folder / f"sae_layer_{settings.layer}")


def train_sae(activations: Tensor, settings: SAESettings, folder: Path) -> None:
    """Train an autoencoder and save it for inference, as JumpReLU in float16.

    Parameters
    ----------
    activations : Tensor, shape (positions, d_model)
        What to train on.
    settings
        Layer, architecture and schedule.
    folder
        Where ``SAE.load_from_disk`` shall find it.
    """
    torch.manual_seed(settings.seed)
    samples = int(settings.passes * len(activations))
    steps = samples // settings.batch
    sae = _untrained(activations.shape[1], settings)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * settings.batch,
            train_batch_size_samples=settings.batch,
            lr=settings.lr,
            lr_end=settings.lr / 100,
            lr_warm_up_steps=steps // 20,
            lr_decay_steps=steps // 2,
            dead_feature_window=150,
            feature_sampling_window=1000,
            n_batches_for_norm_estimate=100,
        ),
        sae=sae,
        data_provider=_shuffled(activations, settings),
    )
    trainer.fit().save_inference_model(folder)
    weights = load_file(folder / WEIGHTS_FILE)
    save_file({name: value.half() for name, value in weights.items()}, folder / WEIGHTS_FILE)
    # One key order and a last newline, so that equal builds give equal files.
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def _untrained(d_model: int, settings: SAESettings) -> BatchTopKTrainingSAE:
    layer = settings.layer
    common: dict[str, Any] = {
        "d_in": d_model,
        "d_sae": settings.latents,
        "k": settings.k,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(
            model_name=MODEL_NAME,
            model_class_name="AutoModelForCausalLM",
            hook_name=f"blocks.{layer}.hook_resid_post",
            hf_hook_name=f"model.layers.{layer}",
            hook_layer=layer,
            context_size=128,
            prepend_bos=True,
            dataset_path=DATASET,
        ),
    }
    if settings.matryoshka:
        widths = [settings.latents // 8, settings.latents // 3, settings.latents]
        return _FastMatryoshkaSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(matryoshka_widths=widths, **common)
        )
    return _FastBatchTopKSAE(BatchTopKTrainingSAEConfig(**common))


def _shuffled(activations: Tensor, settings: SAESettings) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        order = torch.randperm(len(activations), generator=generator)
        for start in range(0, len(order) - settings.batch + 1, settings.batch):
            yield activations[order[start : start + settings.batch]].float()
