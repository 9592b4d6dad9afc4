"""Hook points: where they are, what a change there does, which direction they stand for.

The judges are what the names mean, not which module they were found at: what attention adds is the
stream after it minus the stream before it, the hidden states are the ones the model itself gives,
a change of ``z`` at one position reaches no other position before the next layer.
"""

from __future__ import annotations

import copy
import importlib
from functools import cache

import pytest
import torch
from torch import nn
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
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sae_explorer.errors import ExplorerError
from sae_explorer.model import sites
from sae_explorer.model.anatomy import NAMES
from sae_explorer.model.capture import capture

LAYERS = 4
WIDTH = 32
_PLAIN = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_PLAIN, "num_key_value_heads": 2, "head_dim": 6}  # z is narrower than the stream
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EYES = {  # as deep as the language model: which of the two stacks is meant must not hang on depth
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS = {
    "gemma": lambda: GemmaConfig(**_GROUPED),
    "gemma2": lambda: Gemma2Config(**_GROUPED),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED),
    "gemma3-multimodal": lambda: Gemma3Config(text_config=_GROUPED, vision_config=_EYES),
    "gpt2": lambda: GPT2Config(
        vocab_size=64, n_embd=WIDTH, n_layer=LAYERS, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "gpt_neo": lambda: GPTNeoConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        attention_types=[[["global", "local"], LAYERS // 2]],
        num_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_PLAIN),
    "gpt_neox-in-turn": lambda: GPTNeoXConfig(**_PLAIN, use_parallel_residual=False),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED),
    "qwen2": lambda: Qwen2Config(**_PLAIN, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_GROUPED),
    "qwen3_moe": lambda: Qwen3MoeConfig(**_GROUPED, **_EXPERTS),
    "qwen3_5": lambda: Qwen3_5TextConfig(**_GROUPED, **_LINEAR),
    "qwen3_5_moe": lambda: Qwen3_5MoeTextConfig(
        **_GROUPED, **_LINEAR, **_EXPERTS, shared_expert_intermediate_size=16
    ),
    "gpt_oss": lambda: GptOssConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "olmo2": lambda: Olmo2Config(**_PLAIN),
    "granite": lambda: GraniteConfig(**_PLAIN, residual_multiplier=0.3),
    "opt": lambda: OPTConfig(
        **{k: v for k, v in _PLAIN.items() if k != "intermediate_size"},
        ffn_dim=48,
        word_embed_proj_dim=WIDTH,
    ),
    "qwen3_5-multimodal": lambda: Qwen3_5Config(text_config={**_GROUPED, **_LINEAR}),
}
KNOWN = [name for name in CONFIGS if name not in ("granite", "opt", "qwen3_5-multimodal")]
EXPERTS = ("qwen3_moe", "qwen3_5_moe", "gpt_oss")
SCALED = ("gemma", "gemma2", "gemma3", "gemma3-multimodal")
NORM_BEHIND = ("gemma2", "gemma3", "gemma3-multimodal", "olmo2")
NORM_BEFORE = [name for name in KNOWN if name != "olmo2"]
#: Where something is projected into what a layer adds; experts have no single hidden layer.
PROJECTED = [
    (name, hook, out)
    for name in KNOWN
    for hook, out in (("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out"))
    if hook == "attn.hook_z" or name not in EXPERTS
]
IDS = torch.tensor([[1, 7, 23, 42, 11, 60], [1, 9, 30, 5, 58, 17]])


@cache
def model_of(name: str) -> nn.Module:
    """Return a model whose every weight is random, gains and biases included."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            else:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    return model.requires_grad_(requires_grad=False)


def resolve(name: str, hook: str, layer: int = 3) -> sites.Site:
    """Return a hook point in a layer; layer 3 has attention of the usual kind in every model."""
    return sites.resolve(model_of(name), f"blocks.{layer}.{hook}")


def at(name: str, *hooks: str, layer: int = 3) -> list[torch.Tensor]:
    return capture(model_of(name), [resolve(name, hook, layer) for hook in hooks], IDS)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def hooks_of(model: nn.Module) -> list[object]:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [hook for m in model.modules() for kind in kinds for hook in getattr(m, kind).values()]


def in_turn(name: str) -> bool:
    return name != "gpt_neox"


# Where they are


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_residual_stream_is_what_the_model_calls_its_hidden_states(name):
    model = model_of(name)
    with torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        before, after = at(name, "hook_resid_pre", "hook_resid_post", layer=layer)
        assert torch.equal(before, states[layer])
        if layer < LAYERS - 1:
            assert torch.equal(after, states[layer + 1])
        else:
            assert torch.equal(sites.final_norm(model)(after), states[-1])


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("layer", [0, 3])
def test_attention_and_mlp_out_are_what_is_added_to_the_stream(name, layer):
    pre, attn, mlp, post = at(
        name, "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", layer=layer
    )
    assert attn.abs().max() > 1e-3
    assert mlp.abs().max() > 1e-3
    close(pre + attn + mlp, post)
    if in_turn(name):
        (mid,) = at(name, "hook_resid_mid", layer=layer)
        close(pre + attn, mid)
        close(mid + mlp, post)


@pytest.mark.parametrize("name", KNOWN)
def test_the_embedding_is_what_the_first_block_gets_before_any_positions(name):
    model = model_of(name)
    (embedded,) = capture(model, [sites.resolve(model, "hook_embed")], IDS)
    rows = model.get_input_embeddings().weight[IDS]
    close(embedded, rows * WIDTH**0.5 if name in SCALED else rows)
    (first,) = at(name, "hook_resid_pre", layer=0)
    assert torch.equal(embedded, first) == (name not in ("gpt2", "gpt_neo"))


@pytest.mark.parametrize("name", NORM_BEFORE)
def test_the_mlp_reads_the_normalised_stream_times_a_gain(name):
    (stream,) = at(name, "hook_resid_mid" if in_turn(name) else "hook_resid_pre")
    normalised, read = at(name, "ln2.hook_normalized", "mlp.hook_in")
    if name.startswith("gpt_neo") or name == "gpt2":
        stream = stream - stream.mean(-1, keepdim=True)
    close(normalised, stream / stream.pow(2).mean(-1, keepdim=True).sqrt())
    # One gain for all positions, and an offset where the norm has one.
    x, y = normalised.flatten(0, 1), read.flatten(0, 1)
    close((y[1] - y[0]) * (x[2:] - x[0]), (y[2:] - y[0]) * (x[1] - x[0]))
    # ... and it is what the MLP itself computes with.
    block = sites.blocks(model_of(name))[3]
    out = block.mlp(read)
    out = out if isinstance(out, torch.Tensor) else out[0]
    if name in NORM_BEHIND:
        out = block.post_feedforward_layernorm(out)
    close(out, at(name, "hook_mlp_out")[0])


@pytest.mark.parametrize(("name", "hook", "out"), PROJECTED)
def test_z_and_the_hidden_layer_act_on_their_own_position_alone_and_linearly(name, hook, out):
    inner, outer = resolve(name, hook), resolve(name, out)
    config = sites.text_config(model_of(name))
    head = getattr(config, "head_dim", None) or WIDTH // config.num_attention_heads
    if hook == "attn.hook_z":
        assert inner.width == config.num_attention_heads * head
    else:
        assert inner.width == (getattr(config, "intermediate_size", None) or 4 * WIDTH)
    assert capture(model_of(name), [inner], IDS)[0].shape == (*IDS.shape, inner.width)
    direction = torch.randn(inner.width, generator=torch.manual_seed(0))

    def shifted(size):
        def edit(x):
            x = x.clone()
            x[:, 2] = size * direction
            return x

        with sites.edited(inner, edit):
            return capture(model_of(name), [outer], IDS)[0]

    plain, zero, one, two = at(name, out)[0], shifted(0), shifted(1), shifted(2)
    others = [0, 1, 3, 4, 5]
    close(one[:, others], plain[:, others])
    assert not torch.allclose(one[:, 2], plain[:, 2], atol=1e-3)
    if name not in NORM_BEHIND:
        close(two[:, 2] - zero[:, 2], 2 * (one[:, 2] - zero[:, 2]))


@pytest.mark.parametrize(
    ("name", "module", "hook"),
    [
        ("gemma3", "model.layers.3.output", "hook_resid_post"),
        ("gemma3-multimodal", "model.layers.3.output", "hook_resid_post"),
        ("gemma3-multimodal", "model.layers.3.self_attn.o_proj.input", "attn.hook_z"),
        ("gemma3-multimodal", "model.layers.3.pre_feedforward_layernorm.output", "mlp.hook_in"),
        ("gemma3-multimodal", "model.layers.3.post_feedforward_layernorm.output", "hook_mlp_out"),
        ("gemma3-multimodal", "model.language_model.layers.3", "hook_resid_post"),
        ("gemma2", "model.layers.3.post_attention_layernorm", "hook_attn_out"),
        ("gemma2", "model.layers.3.pre_feedforward_layernorm.input", "hook_resid_mid"),
        ("qwen3", "model.layers.3", "hook_resid_post"),
        ("qwen3", "layers.3.input", "hook_resid_pre"),
        ("qwen3", "model.layers.3.mlp", "hook_mlp_out"),
        ("qwen3", "model.layers.3.mlp.down_proj", "hook_mlp_out"),
        ("qwen3", "model.layers.3.mlp.down_proj.input", "mlp.hook_post"),
        ("qwen3", "model.layers.3.post_attention_layernorm", "mlp.hook_in"),
        ("qwen3_5", "model.layers.3.self_attn", "hook_attn_out"),
        ("qwen3_5-multimodal", "model.language_model.layers.3", "hook_resid_post"),
        ("gpt2", "transformer.h.3", "hook_resid_post"),
        ("gpt2", "h.3.attn.c_proj.input", "attn.hook_z"),
        ("gpt_neo", "transformer.h.3.attn.attention.out_proj.input", "attn.hook_z"),
        ("gpt_neox", "gpt_neox.layers.3.attention.dense.input", "attn.hook_z"),
        ("gpt_neox", "layers.3.mlp.dense_4h_to_h.input", "mlp.hook_post"),
    ],
)
def test_a_module_s_name_is_the_hook_point_that_it_is(name, module, hook):
    found, known = sites.resolve(model_of(name), module), resolve(name, hook)
    assert (found.kind, found.layer, found.module, found.side) == (
        known.kind,
        3,
        known.module,
        known.side,
    )
    assert found.name == module
    assert model_of(name).get_submodule(found.path) is found.module
    # SAELens' own name for it goes along; where the module exists it decides.
    both = sites.resolve(model_of(name), "blocks.1.hook_resid_pre", module)
    assert (both.kind, both.layer) == (known.kind, 3)


def test_a_module_that_the_model_does_not_have_leaves_it_to_the_hook_name():
    site = sites.resolve(model_of("gpt2"), "blocks.2.hook_resid_post", "model.layers.2.output")
    assert (site.kind, site.layer, site.path) == ("resid_post", 2, "transformer.h.2")


def test_any_other_module_can_be_read_by_its_name_though_not_put_into_words():
    model = model_of("llama")
    gate = sites.resolve(model, "model.layers.1.mlp.gate_proj")
    attention = sites.resolve(model, "model.layers.1.self_attn.input")  # given by keyword
    norm = sites.resolve(model, "model.layers.1.input_layernorm")
    values = capture(model, [gate, attention, norm], IDS)
    assert values[0].shape == (*IDS.shape, 48)
    assert torch.equal(values[1], values[2])
    with pytest.raises(ExplorerError, match=r"No way from .*gate_proj"):
        gate.residual_direction(torch.ones(48))
    before = sites.resolve(model_of("gemma2"), "model.layers.1.self_attn.input")
    with pytest.raises(ExplorerError, match=r"the input of model.layers.1.self_attn"):
        before.residual_direction(torch.ones(WIDTH))


def test_the_language_model_s_blocks_are_meant_and_not_those_of_the_eyes():
    model = model_of("gemma3-multimodal")
    assert sites.blocks(model) is model.model.language_model.layers
    assert len(model.model.vision_tower.encoder.layers) == LAYERS
    eyes = sites.resolve(model, "model.vision_tower.encoder.layers.2.mlp")
    assert (eyes.kind, eyes.layer) == ("module", None)


@pytest.mark.parametrize("name", [n for n in KNOWN if not n.endswith("in-turn")])
def test_transformer_lens_tables_agree(name):
    builder = importlib.import_module("transformer_lens.model_bridge.sources._bridge_builder")
    factory = importlib.import_module("transformer_lens.factories.architecture_adapter_factory")
    model = model_of(name)
    config = model.config
    config.architectures = [type(model).__name__]
    adapter = factory.ArchitectureAdapterFactory.select_architecture_adapter(
        builder.build_bridge_config_from_hf(config, type(model).__name__, name, torch.float32)
    )
    block = adapter.component_mapping["blocks"]

    def theirs(hook):
        part, path = block, [block.name, "3"]
        steps = hook.split(".")
        while steps:
            step = steps.pop(0)
            if step in part.submodules:
                part = part.submodules[step]
                path += [part.name] if part.name else []
            elif step in ("hook_in", "hook_out"):
                return ".".join(path), "input" if step == "hook_in" else "output"
            elif step in part.hook_aliases:
                steps = part.hook_aliases[step].split(".") + steps
            else:
                return None
        return None

    modules = dict(model.named_modules())
    compared = 0
    for kind, (hook, *_) in NAMES.items():
        if kind == "mlp_normalized" or (kind == "mlp_hidden" and name in EXPERTS):
            continue  # no module's output; and there "post" means the experts' output
        place = theirs(hook)
        if place is None:
            continue
        path, side = place
        if path not in modules:
            continue  # their table has no opinion on this layer's kind
        their_site = sites.Site(hook, "module", 3, path, modules[path], side, None)
        ours, judge = capture(model, [resolve(name, hook), their_site], IDS)
        assert torch.equal(ours, judge), hook
        compared += 1
    assert compared >= 4


# What a change there does


@pytest.mark.parametrize(
    ("name", "hook", "then"),
    [
        (name, hook, then)
        for name in KNOWN
        for hook, then in (
            ("hook_resid_pre", "hook_resid_pre"),
            ("hook_attn_out", "hook_resid_mid"),
            ("hook_resid_mid", "hook_resid_mid"),
            ("hook_mlp_out", "hook_resid_post"),
            ("hook_resid_post", "hook_resid_post"),
        )
        if in_turn(name) or "hook_resid_mid" not in (hook, then)  # else side by side
    ],
)
def test_what_is_added_at_a_site_is_added_to_the_stream_and_read_by_the_rest(name, hook, then):
    model, site, after = model_of(name), resolve(name, hook, 1), resolve(name, then, 1)
    later = [
        resolve(name, h, layer)
        for h, layer in (("hook_attn_out", 1), ("hook_mlp_out", 1), ("hook_resid_post", 1))
    ]
    pre = resolve(name, "hook_resid_pre", 1)
    next_one = resolve(name, "hook_resid_pre", 2)
    delta = torch.randn(WIDTH, generator=torch.manual_seed(1))
    plain = capture(model, [after, *later, pre, next_one], IDS)
    with sites.edited(site, lambda x: x + delta):
        moved = capture(model, [after, *later, pre, next_one], IDS)
    close(moved[0], plain[0] + delta)
    # The stream carries it on: it is not only seen by the branch that reads it next.
    before_mlp = moved[4] + moved[1] + (delta if hook == "hook_resid_mid" and in_turn(name) else 0)
    if hook in ("hook_resid_pre", "hook_attn_out"):
        close(moved[4] + moved[1] + moved[2], moved[3])
    elif hook == "hook_resid_mid":
        close(moved[0] + moved[2], moved[3])
        assert not torch.allclose(moved[2], plain[2], atol=1e-3)  # the MLP read it too
        close(before_mlp - delta, moved[4] + moved[1])
    assert torch.equal(moved[5], moved[3])
    assert not torch.allclose(moved[5], plain[5], atol=1e-3)


@pytest.mark.parametrize("name", NORM_BEFORE)
def test_a_change_before_the_norm_s_gain_moves_what_the_mlp_reads_by_the_gain(name):
    before, read = resolve(name, "ln2.hook_normalized"), resolve(name, "mlp.hook_in")
    site = [resolve(name, "ln2.hook_normalized"), read, resolve(name, "hook_resid_pre")]
    plain = capture(model_of(name), site, IDS)
    with sites.edited(before, lambda x: 2 * x):
        doubled = capture(model_of(name), site, IDS)
    close(doubled[0], 2 * plain[0])
    assert torch.equal(doubled[2], plain[2])
    with sites.edited(before, lambda x: x):
        same = capture(model_of(name), site, IDS)
    close(same[1], plain[1])
    with sites.edited(before, torch.zeros_like):
        offset = capture(model_of(name), site, IDS)[1]
    close(doubled[1] - offset, 2 * (plain[1] - offset))


@pytest.mark.parametrize("name", ["gemma3-multimodal", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("hook", ["hook_resid_mid", "hook_mlp_out", "attn.hook_z"])
def test_nothing_is_left_behind_whatever_happens(name, hook):
    model, site = model_of(name), resolve(name, hook, 1)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(IDS).logits
    hooks = hooks_of(model)

    def fail(_x):
        raise RuntimeError("broken edit")

    with (
        pytest.raises(RuntimeError, match="broken edit"),
        sites.edited(site, fail),
        torch.no_grad(),
    ):
        model(IDS)
    ramp = torch.linspace(0, 3, site.width)
    with torch.no_grad(), sites.edited(site, lambda x: x + ramp):
        assert not torch.allclose(model(IDS).logits, before, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, before)
    assert hooks_of(model) == hooks  # transformers has some of its own
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("hook", [names[0] for names in NAMES.values()])
def test_an_edit_that_changes_nothing_changes_nothing(hook):
    model = AutoModelForCausalLM.from_config(CONFIGS["gemma3"](), dtype=torch.bfloat16).eval()
    with torch.no_grad():
        plain = model(IDS).logits
        with sites.edited(sites.resolve(model, f"blocks.1.{hook}"), lambda x: x):
            assert torch.equal(model(IDS).logits, plain)


def test_an_edit_in_another_dtype_is_cast_back():
    model = AutoModelForCausalLM.from_config(CONFIGS["gemma2"](), dtype=torch.bfloat16).eval()
    for hook in ("hook_resid_mid", "hook_resid_post", "attn.hook_z", "ln2.hook_normalized"):
        site = sites.resolve(model, f"blocks.1.{hook}")
        with sites.edited(site, lambda x: x.float() + 1):
            (value,) = capture(model, [sites.resolve(model, "blocks.3.hook_resid_post")], IDS)
        assert value.dtype == torch.bfloat16


# Which direction they stand for


@pytest.mark.parametrize(
    "hook", ["hook_resid_pre", "hook_resid_mid", "hook_mlp_out", "hook_attn_out"]
)
def test_a_direction_in_the_stream_stands_for_itself(hook):
    vector = torch.randn(WIDTH)
    assert torch.equal(resolve("gemma2", hook).residual_direction(vector), vector)
    half = resolve("gemma2", hook).residual_direction(vector.bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize(("name", "hook", "out"), PROJECTED)
def test_moving_z_or_the_hidden_layer_moves_the_stream_along_its_direction(name, hook, out):
    site, outer = resolve(name, hook), resolve(name, out)
    vector = torch.randn(site.width, generator=torch.manual_seed(2))
    direction = site.residual_direction(vector)
    assert (direction.shape, direction.dtype) == ((WIDTH,), torch.float32)
    (plain,) = at(name, out)
    if name not in NORM_BEHIND:
        with sites.edited(site, lambda x: x + vector):
            (moved,) = capture(model_of(name), [outer], IDS)
        close(moved - plain, direction.expand_as(plain))
        return
    # Where a norm follows, a push far stronger than what was there comes out along the direction.
    with sites.edited(site, lambda x: x + 1e6 * vector):
        (moved,) = capture(model_of(name), [outer], IDS)
    assert cosine(moved[0, 0], direction) > 0.9999
    # ... and its length is the gain's, as the weights give it.
    block = sites.blocks(model_of(name))[3]
    norm = "post_attention_layernorm" if hook == "attn.hook_z" else "post_feedforward_layernorm"
    projection = block.self_attn.o_proj if hook == "attn.hook_z" else block.mlp.down_proj
    gain = getattr(block, norm).weight + (name != "olmo2")
    close(direction, gain * (projection.weight @ vector))


@pytest.mark.parametrize("name", NORM_BEFORE)
@pytest.mark.parametrize("hook", ["mlp.hook_in", "ln2.hook_normalized"])
def test_what_the_mlp_reads_along_a_direction_grows_along_its_residual_direction(name, hook):
    site = resolve(name, hook)
    vector = torch.randn(WIDTH, generator=torch.manual_seed(4))
    direction = site.residual_direction(vector)
    norm = resolve(name, "ln2.hook_normalized").module
    x = torch.randn(WIDTH, generator=torch.manual_seed(5))[None, None]
    x.requires_grad_()
    y = norm(x)
    if hook == "ln2.hook_normalized":
        centred = x - x.mean() if isinstance(norm, nn.LayerNorm) else x
        y = centred / centred.pow(2).mean().sqrt()
    (gradient,) = torch.autograd.grad((y[0, 0] * vector).sum(), x)
    # With the scale held fixed, the gradient is the direction; the scale takes out x itself.
    along = (x - x.mean() if isinstance(norm, nn.LayerNorm) else x).detach()[0, 0]
    expected = direction - along * (direction @ along) / (along @ along)
    assert cosine(expected, gradient[0, 0]) > 0.99999


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama", "olmo2"])
def test_directions_are_computed_in_float32_on_weights_of_any_dtype(name):
    torch.manual_seed(6)
    half = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.bfloat16).eval()
    before = {key: value.clone() for key, value in half.state_dict().items()}
    full = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32).eval()
    full.load_state_dict(half.state_dict())
    for hook in ("attn.hook_z", "mlp.hook_post", "mlp.hook_in"):
        low, high = (sites.resolve(m, f"blocks.2.{hook}") for m in (half, full))
        vector = torch.randn(low.width)
        torch.testing.assert_close(
            low.residual_direction(vector), high.residual_direction(vector), rtol=1e-6, atol=1e-7
        )
    assert all(torch.equal(value, before[key]) for key, value in half.state_dict().items())


class Quantised(nn.Module):
    """A projection whose weights are small whole numbers with a scale a row."""

    def __init__(self, plain, dtype):
        super().__init__()
        self.in_features = plain.in_features
        scale = plain.weight.abs().amax(dim=1, keepdim=True) / 100
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.weight = nn.Parameter((plain.weight / scale).round().to(dtype), requires_grad=False)

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale).T


class Adapted(nn.Module):
    """A projection within another module, as adapters wrap them."""

    def __init__(self, plain):
        super().__init__()
        self.in_features, self.inner = plain.in_features, plain.bfloat16()

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    "replacement",
    [
        lambda plain: Quantised(plain, torch.int8),
        lambda plain: Quantised(plain, torch.float8_e4m3fn),
        Adapted,
    ],
    ids=["int8", "float8", "adapter"],
)
def test_a_projection_that_is_quantised_or_wrapped_is_run_as_it_is(replacement):
    model = copy.deepcopy(model_of("llama"))
    attention = sites.blocks(model)[2].self_attn
    vector = torch.randn(attention.o_proj.in_features)
    expected = sites.resolve(model, "blocks.2.attn.hook_z").residual_direction(vector)
    with torch.no_grad():
        attention.o_proj = replacement(attention.o_proj)
    found = sites.resolve(model, "blocks.2.attn.hook_z").residual_direction(vector)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


def test_directions_of_a_model_whose_weights_are_elsewhere_are_the_same():
    """Weights that accelerate keeps away from their modules, as it does for models too large."""
    import accelerate

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS["gemma2"](), dtype=torch.float32).eval()
    places = [sites.resolve(model, f"blocks.2.{h}") for h in ("attn.hook_z", "mlp.hook_in")]
    vectors = [torch.randn(site.width) for site in places]
    here = [site.residual_direction(v) for site, v in zip(places, vectors, strict=True)]
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert places[0].module.weight.is_meta
    for site, vector, expected in zip(places, vectors, here, strict=True):
        close(site.residual_direction(vector), expected)


def test_a_direction_of_a_part_before_its_norm_goes_through_the_norm():
    """A user's own SAE of gemma's raw MLP output, which TransformerLens has no name for."""
    raw = sites.resolve(model_of("gemma2"), "model.layers.3.mlp")
    block = sites.blocks(model_of("gemma2"))[3]
    vector = torch.randn(WIDTH)
    assert raw.kind == "module"
    close(raw.residual_direction(vector), (1 + block.post_feedforward_layernorm.weight) * vector)


# Refusals


@pytest.mark.parametrize(
    ("name", "hook", "words"),
    [
        ("llama", "blocks.4.hook_resid_post", "has 4 layers, 0 to 3"),
        ("llama", "model.layers.17.mlp", "has 4 layers, 0 to 3"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "side by side.*Layer 1 has hook_resid_pre, hook_"),
        ("qwen3_moe", "blocks.1.mlp.hook_post", "mixture of experts.*Layer 1 has .*hook_mlp_out"),
        ("qwen3_5", "blocks.1.attn.hook_z", "linear attention.*Layer 1 has .*hook_attn_out"),
        ("olmo2", "blocks.1.ln2.hook_normalized", "without a norm.*mlp.hook_in"),
        ("granite", "blocks.1.hook_mlp_out", "scales what a layer adds.*hook_resid_post"),
        ("opt", "blocks.1.hook_mlp_out", "OPTDecoderLayer.*has hook_resid_pre, hook_resid_post:"),
        ("llama", "blocks.1.hook_resid_pst", "neither a module.*Did you mean 'hook_resid_post'"),
        ("llama", "blocks.1.attn.hook_pattern", "neither a module of the model nor hook_embed"),
        ("llama", "transformer.h.1.mlp.c_proj", "neither a module"),
        ("llama", "model.vision_tower.norm", "neither a module"),
        ("llama", "nonsense", "'nonsense' is no hook point of LlamaForCausalLM"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_its_reason(name, hook, words):
    with pytest.raises(ExplorerError, match=words) as caught:
        sites.resolve(model_of(name), hook)
    message = str(caught.value)
    assert type(model_of(name)).__name__ in message
    assert "\n" not in message


def test_a_direction_of_the_wrong_width_is_refused():
    site = resolve("llama", "attn.hook_z")
    with pytest.raises(ExplorerError, match=r"shape \[32\].*blocks.3.attn.hook_z have 24 numbers"):
        site.residual_direction(torch.ones(WIDTH))
