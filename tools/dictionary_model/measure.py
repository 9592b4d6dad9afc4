"""Measure the finished model and its autoencoders."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from corpus import Corpus, encode_lines
from lines import Line, definition_line
from tokens import EOS
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformers import GemmaForCausalLM, PreTrainedTokenizerFast
    from wordnet import WordNet

__all__ = ["end_entropy", "held_out_corpus", "held_out_loss", "measure_sae"]


def held_out_corpus(
    net: WordNet, held_out: list[str], tokenizer: PreTrainedTokenizerFast, seed: int
) -> Corpus:
    """Definition rows of the synsets that training does not show, one each."""
    rng = random.Random(f"held-out-words-{seed}")
    lines = []
    for key in held_out:
        synset = net[key]
        lemma = rng.choices(synset.lemmas, [1 / rank for rank in synset.ranks])[0]
        text = definition_line(lemma, synset.definition)
        lines.append(Line(text, framed=True, prefix_loss=False))
    return encode_lines(lines, tokenizer, 128)


@torch.no_grad()
def held_out_loss(model: GemmaForCausalLM, corpus: Corpus) -> dict[str, float]:
    """Cross-entropy per token of the definitions, their closing quote and end token.

    The frame before the definition is not counted.
    """
    total, count = 0.0, 0
    for ids, loss_from in _batches(corpus):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        counted = torch.arange(losses.shape[1]) >= loss_from[:, None]
        total += losses[counted].sum().item()
        count += int(counted.sum())
    loss = total / count
    return {"cross_entropy": loss, "perplexity": math.exp(loss), "tokens": count}


@torch.no_grad()
def end_entropy(model: GemmaForCausalLM, corpus: Corpus) -> dict[str, float]:
    """Mean entropy, and mean largest probability, of what follows the end token."""
    entropies, largest = [], []
    for ids, _ in _batches(corpus):
        assert bool((ids[:, -1] == EOS).all())
        log_p = model(input_ids=ids, use_cache=False).logits[:, -1].float().log_softmax(-1)
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1))
        largest.append(log_p.amax(dim=-1).exp())
    return {
        "entropy": torch.cat(entropies).mean().item(),
        "uniform": math.log(model.config.vocab_size),
        "largest_probability": torch.cat(largest).mean().item(),
    }


@dataclass
class _Sums:
    """Running sums over positions."""

    loss: float = 0.0
    loss_sae: float = 0.0
    loss_zero: float = 0.0
    positions: int = 0
    active: float = 0.0
    error: float = 0.0


@torch.no_grad()
def measure_sae(
    model: GemmaForCausalLM, sae: SAE[Any], layer: int, corpus: Corpus
) -> dict[str, float]:
    """Measure an autoencoder on lines it was not trained on.

    ``l0`` and ``explained_variance`` leave out the begin token, whose activation
    is the same in every line. ``loss_recovered`` is
    ``1 - (CE_sae - CE) / (CE_zero - CE)`` with the layer's output replaced, at
    every position, by the reconstruction or by zeros. ``dead`` counts features
    that never fire in these lines.
    """
    sums = _Sums()
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    mean = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
    square = 0.0
    for ids, _ in _batches(corpus):
        kept: list[Tensor] = []
        sums.loss += _summed_loss(model, ids, layer, _keep(kept))
        acts = sae.encode(kept[0])
        out = sae.decode(acts)
        sums.loss_sae += _summed_loss(model, ids, layer, _replace(out))
        sums.loss_zero += _summed_loss(model, ids, layer, _replace(torch.zeros_like(out)))
        x, acts, out = (t[:, 1:].flatten(0, 1) for t in (kept[0], acts, out))
        fired |= (acts > 0).any(dim=0)
        sums.active += (acts > 0).sum().item()
        sums.error += (x - out).double().square().sum().item()
        square += x.double().square().sum().item()
        mean += x.double().sum(dim=0)
        sums.positions += len(x)
    variance = square - float(mean.square().sum()) / sums.positions
    lost = (sums.loss_sae - sums.loss) / (sums.loss_zero - sums.loss)
    return {
        "l0": sums.active / sums.positions,
        "explained_variance": 1 - sums.error / variance,
        "loss_recovered": 1 - lost,
        "dead": int((~fired).sum()),
        "positions": sums.positions,
    }


def _batches(corpus: Corpus) -> list[tuple[Tensor, Tensor]]:
    """All rows, by length, as ids with their first counted position."""
    lengths = np.array([len(row) for row in corpus.rows])
    batches = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for start in range(0, len(members), 128):
            some = members[start : start + 128]
            ids = np.stack([corpus.rows[i] for i in some])
            loss_from = torch.from_numpy(corpus.loss_from[some])
            batches.append((torch.from_numpy(ids).long(), loss_from))
    return batches


def _summed_loss(model: GemmaForCausalLM, ids: Tensor, layer: int, hook: Any) -> float:
    # Without the end token: what follows it is noise by design.
    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    finally:
        handle.remove()
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="sum").item()


def _keep(kept: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    return hook


def _replace(value: Tensor) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return value if isinstance(output, Tensor) else (value, *output[1:])

    return hook
