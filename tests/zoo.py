"""Tiny random models, a tokenizer and an SAE that behave enough like real ones to be worth testing.

A model with default initialisation predicts nearly the same distribution everywhere, so a wrong
engine would pass. Here the layers, the embeddings and the final norm are drawn so that each
position matters and the distributions are peaked: definition trees have hundreds of nodes.

Each architecture brings what makes it hard to cache or to mask: soft-caps (gemma2), sliding
windows far shorter than the prompt (`SLIDING`), two rotary bases (gemma3), a vision tower around
the language model (gemma3_multimodal), scaled embeddings (gemma*), grouped heads (llama and
others), learned positions (gpt2), masks of its own that count places (gpt_neo), partial rotary
embedding and parallel residual (gpt_neox), experts chosen by each token (gpt_oss, *_moe), attention
sinks (gpt_oss), and recurrent layers that keep one state in place of keys and values (qwen3_5*).
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import Any

import sae_lens
import torch
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.pytorch_utils import Conv1D

VOCAB_SIZE = 320
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unused0>", "<unused1>")
WINDOW = 6  # positions a sliding layer sees, itself included: less than half of any test prompt
#: Of a tree that the models answer with many nodes.
OPTIONS: dict[str, Any] = {
    "weights": "decoder",
    "scale": 2.0,
    "cutoff": 1e-3,
    "max_depth": 6,
    "ghost_token": "<unused0>",
}
#: How a device and the system say that memory ran out.
NO_MEMORY = (
    torch.OutOfMemoryError("no room"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
)


@dataclass(frozen=True)
class _Species:
    """How to build one architecture."""

    config: type[PreTrainedConfig]
    options: dict[str, Any]
    gain: float = 4.5  # of the final norm: the higher, the more peaked the predictions
    attentions: tuple[str, ...] = ("sdpa", "eager")
    scaled_embeddings: bool = False
    poolable: bool = True  # its keys and values can be shared between branches


_SPECIAL_IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **_SPECIAL_IDS,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 12}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_GEMMA3: dict[str, Any] = {
    **_GROUPED,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_RECURRENT = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

_ZOO: dict[str, _Species] = {
    "gemma": _Species(
        GemmaConfig,
        {**_COMMON, "num_key_value_heads": 1, "head_dim": 16},  # one key head, wider than d/heads
        scaled_embeddings=True,
    ),
    "gemma2": _Species(
        Gemma2Config,
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": _ALTERNATING,
            "attn_logit_softcapping": 2.0,  # low enough to change the result, as 50 does not here
            "final_logit_softcapping": 18.0,
        },
        attentions=("eager",),  # transformers refuses sdpa: it has no soft-cap
        scaled_embeddings=True,
    ),
    "gemma3": _Species(Gemma3TextConfig, _GEMMA3, scaled_embeddings=True),
    "gemma3_multimodal": _Species(
        Gemma3Config,
        {
            "text_config": _GEMMA3,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 4,  # as many as there are of the language model
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        scaled_embeddings=True,
    ),
    "llama": _Species(LlamaConfig, _GROUPED),
    "qwen2": _Species(
        Qwen2Config,
        {
            **_COMMON,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "qwen3": _Species(
        Qwen3Config,
        {
            **_GROUPED,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3_moe": _Species(
        Qwen3MoeConfig,
        {
            **_GROUPED,
            **_EXPERTS,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
        },
    ),
    "qwen3_5": _Species(Qwen3_5TextConfig, {**_GROUPED, **_RECURRENT}, poolable=False),
    "qwen3_5_moe": _Species(
        Qwen3_5MoeTextConfig,
        {**_GROUPED, **_RECURRENT, **_EXPERTS, "shared_expert_intermediate_size": 48},
        poolable=False,
    ),
    "gpt2": _Species(
        GPT2Config,
        {
            "vocab_size": VOCAB_SIZE,
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            **_SPECIAL_IDS,
        },
    ),
    "gpt_neo": _Species(
        GPTNeoConfig,
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 48,
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["local"], 1], [["global"], 1], [["local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 128,
            **_SPECIAL_IDS,
        },
        attentions=("eager",),  # transformers has no other for it
        poolable=False,
    ),
    "gpt_neox": _Species(
        GPTNeoXConfig, {**_COMMON, "hidden_size": 64}
    ),  # 4 of 16 head dimensions rotary
    "mistral": _Species(MistralConfig, {**_GROUPED, "sliding_window": WINDOW}),
    "gpt_oss": _Species(
        GptOssConfig,
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": _ALTERNATING,
        },
        attentions=("eager",),  # transformers refuses sdpa: it has no attention sinks
    ),
}

ARCHITECTURES: tuple[str, ...] = tuple(_ZOO)
SLIDING: tuple[str, ...] = (
    "gemma2",
    "gemma3",
    "gemma3_multimodal",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gpt_neo",
    "mistral",
    "gpt_oss",
)
SCALED: tuple[str, ...] = tuple(name for name, species in _ZOO.items() if species.scaled_embeddings)
POOLABLE: tuple[str, ...] = tuple(name for name, species in _ZOO.items() if species.poolable)


def attentions(architecture: str) -> tuple[str, ...]:
    """Attention implementations that transformers allows for an architecture."""
    return _ZOO[architecture].attentions


@cache
def build_model(
    architecture: str,
    attention: str = "sdpa",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layers: int | None = None,
) -> PreTrainedModel:
    """Build a tiny causal language model of one architecture, in eval mode on the CPU.

    The same architecture and seed give the same weights under every attention implementation.
    Calls are cached, so callers share one object and must leave it as they found it.
    """
    species = _ZOO[architecture]
    deeper = {} if layers is None else {"num_hidden_layers": layers}
    config = species.config(**{**species.options, **deeper})
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention
        )
    _randomise(model, species, torch.Generator().manual_seed(seed))
    module: torch.nn.Module = model
    module.to(dtype).eval()
    return model


@torch.no_grad()
def _randomise(model: PreTrainedModel, species: _Species, generator: torch.Generator) -> None:
    """Draw all parameters: live layers, no dead or dominating part, peaked predictions."""

    def draw(parameter: torch.Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))

    width = model.get_input_embeddings().weight.shape[1]
    unembedding = model.get_output_embeddings()
    norms: list[Any] = []
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(weight, torch.nn.Parameter):
            if isinstance(module, torch.nn.Embedding) or module is unembedding:
                draw(weight, width**-0.5)
            elif weight.ndim == 1:
                draw(weight, 0.1, mean=_neutral(weight))
                norms.append(module)
            else:
                draw(weight, 1.6 * _fan_in(module, weight) ** -0.5)
            if isinstance(bias, torch.nn.Parameter):
                draw(bias, 0.3)
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("weight", "bias"):
                continue
            if parameter.ndim == 3:  # those of all experts in one
                fan_in = parameter.shape[1 if getattr(module, "is_transposed", False) else 2]
                draw(parameter, 1.6 * fan_in**-0.5)
            else:  # biases of experts, attention sinks, rates of decay
                draw(parameter, 0.3)
    final_norm = next(norm for norm in reversed(norms) if norm.weight.shape == (width,))
    neutral = _neutral(final_norm.weight)
    draw(final_norm.weight, 0.1, mean=species.gain + neutral - 1.0)


def _neutral(gain: torch.Tensor) -> float:
    """Return the weight at which a norm leaves lengths alone: Gemma's gain is one plus its weight."""
    return float(gain.mean().round())


def _fan_in(module: torch.nn.Module, weight: torch.Tensor) -> int:
    # GPT-2's Conv1D stores [in, out], everything else [out, in, ...]
    return weight.shape[0] if isinstance(module, Conv1D) else weight[0].numel()


_TEXT = """
A typical definition of a feature would be a direction that the model uses to say one thing.
A typical definition of a token would be a piece of text that is read as one symbol. A typical
definition of a word would be the smallest unit of meaning that can stand on its own. The typical
definition of a tree would be a plant with a trunk, with branches and with leaves; a typical
definition of a path would be the way that leads from one place to another. What would be meant by
"definition"? It would be a statement of what a thing is, and of what it would not be.
A ghost would be a word that nobody has written: it stands where a word would be, and the reader is
asked to say what it means. "To mean" would be to point at something, or to stand for something.
The meaning of a sentence is the meaning of its parts and of the way in which they are put together.
In the morning the water of the river is cold, and in the evening the light on the water is red.
They said that the old house on the hill would be sold, and that nobody would be there to see it.
She asked for the name of the street, and he said that it was called "the way to the sea".
One of them was a teacher, one of them was a painter, and the other one would be a doctor.
There is a time for work and a time for rest; there is a place for each thing.
Numbers such as 1, 2, 3, 10 and 2024 are written with digits; a date would be 12 May 1987.
"""


@cache
def build_tokenizer(vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on a fixed text; it puts ``<bos>`` before every text.

    The ids of `SPECIAL_TOKENS` are 0 to 4. Where the text offers too few merges, further
    ``<unusedN>`` tokens fill the vocabulary up to exactly `vocab_size`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    missing = vocab_size - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<unused{2 + n}>" for n in range(missing)])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


_K = 6  # features that are active together, where an SAE says so

#: Every architecture of SAE that is loaded, with the options of its configuration.
_SAE_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
    "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
    "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
    "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, {"k": _K}),
    "topk-rescaled": (
        sae_lens.TopKSAE,
        sae_lens.TopKSAEConfig,
        {"k": _K, "rescale_acts_by_decoder_norm": True},
    ),
    "batchtopk": (
        sae_lens.BatchTopKTrainingSAE,
        sae_lens.BatchTopKTrainingSAEConfig,
        {"k": _K, "rescale_acts_by_decoder_norm": False},
    ),
    "matryoshka": (
        sae_lens.MatryoshkaBatchTopKTrainingSAE,
        sae_lens.MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": _K, "matryoshka_widths": [8, 24], "rescale_acts_by_decoder_norm": False},
    ),
    "transcoder": (sae_lens.Transcoder, sae_lens.TranscoderConfig, {}),
    "skip_transcoder": (sae_lens.SkipTranscoder, sae_lens.SkipTranscoderConfig, {}),
    "jumprelu_transcoder": (sae_lens.JumpReLUTranscoder, sae_lens.JumpReLUTranscoderConfig, {}),
}
SAE_KINDS: tuple[str, ...] = tuple(_SAE_KINDS)


@cache
def build_sae(
    d_model: int,
    features: int = 24,
    layer: int = 1,
    hook_name: str | None = None,
    seed: int = 0,
    architecture: str = "llama",
    kind: str = "standard",
    hook_name_out: str | None = None,
    threshold: float = 0.4,
    centred: bool = False,
    **config: Any,
) -> sae_lens.SAE[Any]:
    """Build a live SAE with random directions of random length.

    Rows and columns are *not* unit vectors, so that code which forgets to normalise is caught.
    The hook point is the residual stream after `layer` unless `hook_name` names another one.
    BatchTopK and Matryoshka SAEs are saved and loaded, as those that people use have been. A
    transcoder has vectors of `d_model` numbers at both ends. Where an SAE has a threshold, all
    features have the same.
    """
    sae_class, config_class, options = _SAE_KINDS[kind]
    metadata = SAEMetadata(
        hook_name=hook_name or f"blocks.{layer}.hook_resid_post",
        model_name=f"tiny-{architecture}",
    )
    if hook_name_out is not None:
        metadata.hook_name_out = hook_name_out
    if centred:  # as those of GPT-2 that were trained on TransformerLens' activations
        metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    if "transcoder" in kind:
        options = {**options, "d_out": d_model, "apply_b_dec_to_input": False}
    sae = sae_class(
        config_class(d_in=d_model, d_sae=features, metadata=metadata, **options, **config)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, one_per_feature in (
            (sae.W_enc, (1, features)),
            (sae.W_dec, (features, 1)),
        ):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * d_model**-0.5)
            parameter.mul_(0.5 + 1.5 * torch.rand(one_per_feature, generator=generator))
        for name in ("b_enc", "b_dec", "b_gate", "b_mag", "r_mag"):
            if isinstance(getattr(sae, name, None), torch.nn.Parameter):
                bias = getattr(sae, name)
                bias.copy_(0.1 * torch.randn(bias.shape, generator=generator))
        if hasattr(sae, "threshold"):
            sae.threshold.fill_(threshold)
        if hasattr(sae, "W_skip"):
            sae.W_skip.copy_(torch.randn(sae.W_skip.shape, generator=generator) * d_model**-0.5)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(threshold)
    if isinstance(sae, sae_lens.TrainingSAE):
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            sae = sae_lens.SAE.load_from_disk(folder)
    return sae.eval()
