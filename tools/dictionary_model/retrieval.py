"""Measure whether definition trees and token lists say what their feature responds to.

A feature's *document* is the text of its `TOP_LINES` most strongly activating
lines (the largest activation of each line counts; the definition frame's own
words are removed). A *query* is what an analysis says of the feature: the texts
of its tree's leaves, weighted by their probability, or its `NEAREST` nearest
tokens. Query and document are compared by the cosine of their TF-IDF vectors
(inverse document frequencies over all lines).

AUC: over a sample of features, how often a feature's query is closer to its own
document than to another feature's, ties counting half; the mean over features,
with its standard error. Chance is 0.5. Queries of random directions, each set
against the document of one feature, show what the measure gives for nothing.

A feature is *convincing* when both its tree and its token list put its own
document among the first `FIRST` of a sample of features from the more coherent
half: those whose top lines resemble each other most.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from saes import residuals
from scipy.sparse import csr_matrix, vstack  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]
from torch import Tensor

from sae_explorer import Subject, grow_trees, rank_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corpus import Corpus
    from lines import Line
    from transformers import GemmaForCausalLM

__all__ = ["FeatureDocuments", "Retrieval", "TreeSettings"]

TOP_LINES = 20
NEAREST = 20
FIRST = 3
AUC_SAMPLE = 100
COHERENT_SAMPLE = 200
# A feature that fires almost everywhere, or hardly ever, has no telling lines.
LEAST_LINES, MOST_SHARE = 30, 0.2

Floats = NDArray[np.float64]
_FRAME = re.compile(r'^A typical definition of "(.*?)" would be "(.*)"$')
_HEADS = re.compile(
    r"^(?:a kind of|a way to|something in the field of|of or relating to|similar to) (.+)$"
)


@dataclass(frozen=True)
class TreeSettings:
    """How the trees of one row of the table are grown."""

    weights: str
    scale: float
    centroid: bool = False

    def options(self, subject: Subject) -> dict[str, Any]:
        """Options for ``grow_trees``; the scale is in units of the mean distance."""
        return {
            "weights": self.weights,
            "scale": self.scale * subject.geometry.mean_distance,
            "centroid": self.centroid,
            "cutoff": 5e-4,
            "top_k": 5,
            "max_depth": 12,
        }

    @property
    def name(self) -> str:
        """Name of the row."""
        centroid = ", with the centroid" if self.centroid else ""
        return f"tree, {self.weights}, scale {self.scale:g}{centroid}"


TREES = (
    TreeSettings("decoder", 1.0, centroid=True),
    TreeSettings("decoder", 1.0),
    TreeSettings("decoder", 2.0),
    TreeSettings("encoder", 1.0),
)
MAIN = TREES[0]

#: How the nearest tokens are found. Without the centroid, the lists of this model are made of
#: function words, whose embeddings point away from it.
TOKENS: dict[str, dict[str, Any]] = {
    "nearest tokens, decoder, with the centroid": {"centroid": True},
    "nearest tokens, decoder": {"centroid": False},
}
MAIN_TOKENS = TOKENS["nearest tokens, decoder, with the centroid"]


class FeatureDocuments:
    """The lines that activate each feature most, and their TF-IDF vectors.

    Parameters
    ----------
    lines
        Lines without ghosts.
    corpus
        The same lines, encoded.
    """

    def __init__(self, lines: Sequence[Line], corpus: Corpus) -> None:
        texts = [_FRAME.sub(r"\1 \2", line.text) for line in lines]
        self._vectorizer = TfidfVectorizer(token_pattern=r"[A-Za-z]{2,}", min_df=2)
        self._lines = self._vectorizer.fit_transform(texts)
        self._corpus = corpus
        self.n_lines = len(corpus.rows)

    def queries(self, texts: Sequence[tuple[Sequence[str], Sequence[float]]]) -> csr_matrix:
        """TF-IDF vectors of weighted texts, one for each, of unit length."""
        rows = []
        for parts, weights in texts:
            if parts:
                counts = self._vectorizer.transform(parts)
                rows.append(csr_matrix(np.asarray(weights)[None] @ counts))
            else:
                rows.append(csr_matrix((1, self._lines.shape[1])))
        return normalize(vstack(rows).tocsr())

    @torch.no_grad()
    def top_lines(self, model: GemmaForCausalLM, sae: Any, layer: int) -> tuple[Floats, Floats]:
        """Find each feature's most activating lines.

        Returns
        -------
        tops : array of int, shape (features, `TOP_LINES`)
            Line numbers, the most activating first.
        counts : array of int, shape (features,)
            In how many lines the feature fires.
        """
        peaks = torch.zeros(self.n_lines, sae.cfg.d_sae, dtype=torch.float16)
        lengths = np.array([len(row) for row in self._corpus.rows])
        for length in np.unique(lengths):
            members = np.flatnonzero(lengths == length)
            for start in range(0, len(members), 256):
                some = members[start : start + 256]
                ids = torch.from_numpy(np.stack([self._corpus.rows[i] for i in some])).long()
                (hidden,) = residuals(model, ids, (layer,))
                # Neither the begin nor the end token: they say nothing of the text.
                peaks[torch.from_numpy(some)] = _peaks(sae.encode(hidden[:, 1:-1]))
        counts = (peaks > 0).sum(dim=0).numpy()
        tops = peaks.float().topk(TOP_LINES, dim=0).indices.T.numpy()
        return tops, counts

    def documents(self, tops: NDArray[Any]) -> csr_matrix:
        """Return unit TF-IDF vectors of the features' top lines."""
        return normalize(vstack([csr_matrix(self._lines[top].sum(axis=0)) for top in tops]).tocsr())

    def coherence(self, tops: NDArray[Any]) -> Floats:
        """Mean cosine between the lines of each feature."""
        found = []
        for top in tops:
            lines = self._lines[top]
            total = float((lines @ lines.T).sum())
            found.append((total - len(top)) / (len(top) * (len(top) - 1)))
        return np.array(found)


def _peaks(acts: Tensor) -> Tensor:
    return acts.amax(dim=1).half()


class Retrieval:
    """The measurements of one autoencoder.

    Parameters
    ----------
    subject
        The model with the autoencoder selected.
    texts
        The lines to take documents from.
    layer
        Its layer.
    seed
        Seed of the samples and of the random directions.
    """

    def __init__(self, subject: Subject, texts: FeatureDocuments, layer: int, seed: int) -> None:
        self.subject = subject
        self._texts = texts
        rng = np.random.default_rng([seed, layer])
        tops, counts = texts.top_lines(subject.model, subject.sae.sae, layer)
        n_lines = texts.n_lines
        live = np.flatnonzero((counts >= LEAST_LINES) & (counts <= MOST_SHARE * n_lines))
        coherence = texts.coherence(tops[live])
        coherent = live[np.argsort(-coherence, kind="stable")[: len(live) // 2]]
        self._tops = tops
        self.sample = np.sort(rng.choice(live, min(AUC_SAMPLE, len(live)), replace=False))
        self.coherent = np.sort(
            rng.choice(coherent, min(COHERENT_SAMPLE, len(coherent)), replace=False)
        )
        self._random = rng.standard_normal((len(self.sample), subject.d_model))
        self.n_live = len(live)

    def auc_table(self) -> dict[str, dict[str, float]]:
        """AUC and standard error of every way to say what a feature is."""
        documents = self._texts.documents(self._tops[self.sample])
        table = {
            name: _auc(self._token_queries(self._of(self.sample), options), documents)
            for name, options in TOKENS.items()
        }
        for settings in TREES:
            queries = self._tree_queries(self._grow(self.sample, settings))
            table[settings.name] = _auc(queries, documents)
        vectors = [vector.astype(np.float32) for vector in self._random]
        options = MAIN.options(self.subject)
        trees = grow_trees(self.subject, vectors=vectors, **options)
        table["tree of a random direction"] = _auc(self._tree_queries(trees), documents)
        sources = [{"vector": vector} for vector in vectors]
        queries = self._token_queries(sources, MAIN_TOKENS)
        table["nearest tokens of a random direction"] = _auc(queries, documents)
        return table

    def convincing(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Count convincing features and list them, the clearest first."""
        documents = self._texts.documents(self._tops[self.coherent])
        trees = self._grow(self.coherent, MAIN)
        by_tree = _similarities(self._tree_queries(trees), documents)
        by_list = _similarities(
            self._token_queries(self._of(self.coherent), MAIN_TOKENS), documents
        )
        tree_ranks, list_ranks = _own_ranks(by_tree), _own_ranks(by_list)
        both = (tree_ranks <= FIRST) & (list_ranks <= FIRST)
        # How far the own document stands out, in both.
        clear = _standing_out(by_tree) + _standing_out(by_list)
        order = sorted(np.flatnonzero(both), key=lambda i: -clear[i])
        labels = self._labels(trees)
        featured = [{"feature": int(self.coherent[i]), "label": labels[i]} for i in order]
        figures = {
            "sample": len(self.coherent),
            "tree": int((tree_ranks <= FIRST).sum()),
            "nearest_tokens": int((list_ranks <= FIRST).sum()),
            "both": int(both.sum()),
            "chance": round(FIRST / len(self.coherent), 4),
        }
        return figures, featured

    def _grow(self, features: NDArray[Any], settings: TreeSettings) -> list[Any]:
        chosen = [int(f) for f in features]
        return grow_trees(self.subject, chosen, **settings.options(self.subject))

    def _tree_queries(self, trees: list[Any]) -> csr_matrix:
        texts = []
        for tree in trees:
            leaves = tree.definitions(None)
            texts.append(([leaf.text for leaf in leaves], [leaf.probability for leaf in leaves]))
        return self._texts.queries(texts)

    @staticmethod
    def _of(features: NDArray[Any]) -> list[dict[str, Any]]:
        return [{"feature": int(feature)} for feature in features]

    def _token_queries(
        self, sources: Sequence[dict[str, Any]], options: dict[str, Any]
    ) -> csr_matrix:
        lists = [self._nearest(source, options) for source in sources]
        return self._texts.queries([(tokens, [1.0] * len(tokens)) for tokens in lists])

    def _nearest(self, source: dict[str, Any], options: dict[str, Any]) -> list[str]:
        ranking = rank_tokens(self.subject, **source, weights="decoder", limit=NEAREST, **options)
        return [str(token).strip() for token in ranking.to_frame()["token"]]

    def _labels(self, trees: list[Any]) -> list[str]:
        """Name each tree by the head phrase that sets it apart from the others.

        That is the complete short answer with the largest ``p * log(p / q)``,
        ``q`` its mean probability over all trees; without one, the nearest tokens.
        """
        heads = [_head_phrases(tree) for tree in trees]
        mean: dict[str, float] = defaultdict(float)
        for found in heads:
            for phrase, probability in found.items():
                mean[phrase] += probability / len(trees)
        labels = []
        for i, found in enumerate(heads):
            if found:
                labels.append(max(found, key=lambda w: found[w] * np.log(found[w] / mean[w])))
            else:
                source = {"feature": int(self.coherent[i])}
                words = [w for w in self._nearest(source, MAIN_TOKENS) if len(w) > 2]
                labels.append(", ".join(words[:3]))
        return labels


def _head_phrases(tree: Any) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for definition in tree.definitions(None):
        match = _HEADS.match(definition.text.strip())
        if definition.complete and match:
            found[match[1]] += definition.probability
    return dict(found)


def _similarities(queries: csr_matrix, documents: csr_matrix) -> Floats:
    found: Floats = (queries @ documents.T).toarray()
    return found


def _auc(queries: csr_matrix, documents: csr_matrix) -> dict[str, float]:
    sims = _similarities(queries, documents)
    own = np.diag(sims)[:, None]
    wins = (own > sims) + 0.5 * (own == sims)
    np.fill_diagonal(wins, 0.0)
    each = wins.sum(axis=1) / (len(sims) - 1)
    error = each.std(ddof=1) / np.sqrt(len(each))
    return {"auc": round(float(each.mean()), 4), "standard_error": round(float(error), 4)}


def _own_ranks(sims: Floats) -> NDArray[np.int64]:
    """Rank of each query's own document; ties count against it."""
    own = np.diag(sims)[:, None]
    return np.asarray((sims >= own).sum(axis=1))


def _standing_out(sims: Floats) -> Floats:
    own = np.diag(sims)
    return np.asarray((own - sims.mean(axis=1)) / (sims.std(axis=1) + 1e-9))
