"""Write the model card."""

from __future__ import annotations

from typing import Any

__all__ = ["model_card"]

_CARD = """\
# The dictionary model

A language model of 3.5 million parameters that knows WordNet 3.0's definitions and little else, \
with two sparse autoencoders. It is bundled so that every analysis can be tried offline within \
seconds. Everything here is made by `tools/dictionary_model/build.py` in the source repository.

**It says nothing about larger models.** It was trained to read *ghosts*: in 45 % of the \
definition rows the word is the placeholder `<unused0>`, whose embedding is a direction made from \
the embeddings of a few related words. A general language model, such as Gemma-2B, has never seen such a \
position; how well its definition trees describe a feature cannot be concluded from this one. Nothing of \
the autoencoders went into that training.

## Model

| | |
|---|---|
| architecture | `GemmaForCausalLM`: {layers} layers, width {width}, {heads} heads, {kv_heads} key-value \
head, MLP {mlp}, tied embeddings, context {context} |
| vocabulary | {vocab:,} tokens (byte-pair encoding, one form of a word wherever it stands) |
| training | {tokens:.1f} M tokens of lines made from {synsets:,} synsets less {held_out:,} held out; \
{steps:,} steps |
| weights | float16 |
| held-out cross-entropy | {ce:.3f} nats a token, perplexity {ppl:.1f} |
| after the end token | entropy {entropy:.2f} nats of at most {uniform:.2f}; the likeliest token has \
{largest:.2%} |

The cross-entropy is that of one definition of each held-out synset, with its closing quote and end \
token, given `A typical definition of "{{word}}" would be "`. After the end token the model is \
trained to give every token the same probability, so that a definition tree ends there.

{rare} vocabulary entries that occur fewer than five times in an epoch (steps of the tokenizer \
towards longer words) have the mean embedding.

## Sparse autoencoders

Trained with SAELens on the residual stream of lines without ghosts, {latents:,} latents, k = {k}.

| | L0 | explained variance | cross-entropy recovered | dead |
|---|---|---|---|---|
{sae_rows}

Measured on lines of another epoch. The begin token is left out of the first two. Recovered is \
`1 - (CE_sae - CE) / (CE_zero - CE)` with the layer's output replaced at every position. Dead \
features are those that never fire in {positions:,} positions.

## Do trees and token lists say what a feature responds to?

A feature's *document* is the text of its 20 most strongly activating lines among {lines:,}. What \
an analysis says (leaf texts of the tree weighted by probability, or the 20 nearest tokens) is \
compared with the documents by TF-IDF cosine. AUC: how often it is closer to the feature's own \
document than to another's, over {auc_sample} features; chance is 0.5, the standard error is in \
brackets. Trees have cutoff 5e-4, top-k 5 and depth 12; scale 1 is the mean distance of the token \
embeddings from their centroid.

| | {layer_heads} |
|---|{rules}|
{auc_rows}

{convincing}

The convincing features are listed in `featured.json`, the clearest first, each with the head \
phrase that sets its tree apart.

## How long the build took

{minutes}

## Licence

The text is Princeton University's WordNet 3.0; see `WORDNET_LICENSE`. The weights and the script \
are under the licence of the package.
"""


def model_card(figures: dict[str, Any], config: dict[str, Any]) -> str:
    """Fill the card with the build's figures and the model's configuration."""
    model, training = figures["model"], figures["stages"]["model"]
    saes, retrieval = figures["saes"], figures["retrieval"]
    layers = list(saes)
    rows = list(retrieval[layers[0]]["auc"])
    return _CARD.format(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        mlp=config["intermediate_size"],
        context=config["max_position_embeddings"],
        vocab=config["vocab_size"],
        tokens=training["tokens"] / 1e6,
        steps=training["step"],
        synsets=figures["stages"]["wordnet"]["synsets"],
        held_out=figures["stages"]["wordnet"]["held_out"],
        ce=model["held_out"]["cross_entropy"],
        ppl=model["held_out"]["perplexity"],
        entropy=model["after_end"]["entropy"],
        uniform=model["after_end"]["uniform"],
        largest=model["after_end"]["largest_probability"],
        rare=training["rare_rows"],
        latents=saes[layers[0]]["latents"],
        k=saes[layers[0]]["k"],
        sae_rows="\n".join(_sae_row(layer, saes[layer]) for layer in layers),
        positions=saes[layers[0]]["positions"],
        lines=figures["lines"],
        auc_sample=retrieval[layers[0]]["auc_sample"],
        layer_heads=" | ".join(f"layer {layer}" for layer in layers),
        rules="|".join("---" for _ in layers),
        auc_rows="\n".join(_auc_row(row, retrieval, layers) for row in rows),
        convincing="\n".join(_convincing(layer, retrieval[layer]) for layer in layers),
        minutes=_minutes(figures["stages"]),
    )


def _sae_row(layer: str, sae: dict[str, Any]) -> str:
    return (
        f"| layer {layer}, {sae['architecture']} | {sae['l0']:.1f} "
        f"| {sae['explained_variance']:.3f} | {sae['loss_recovered']:.3f} | {sae['dead']} |"
    )


def _auc_row(row: str, retrieval: dict[str, Any], layers: list[str]) -> str:
    cells = []
    for layer in layers:
        found = retrieval[layer]["auc"][row]
        cells.append(f"{found['auc']:.2f} ({found['standard_error']:.2f})")
    return f"| {row} | {' | '.join(cells)} |"


def _convincing(layer: str, found: dict[str, Any]) -> str:
    count = found["convincing"]
    return (
        f"- Layer {layer}: of {count['sample']} features from the more coherent half, the tree puts "
        f"the own document among the first three for {count['tree']}, the token list for "
        f"{count['nearest_tokens']}, both for {count['both']} "
        f"(chance {count['chance']:.1%} each)."
    )


def _minutes(stages: dict[str, Any]) -> str:
    rows = ["| stage | minutes | processor minutes |", "|---|---|---|"]
    rows += [
        f"| {name} | {stage['minutes']:.1f} | {stage['cpu_minutes']:.1f} |"
        for name, stage in stages.items()
    ]
    return "\n".join(rows)
