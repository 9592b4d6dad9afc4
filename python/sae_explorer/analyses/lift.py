"""Lift: how much more probable an answer is for a vector than for random ones like it.

Some answers come whatever vector is asked about: they belong to the prompt. The lift of a path is
``log P(path | ghost) - log mean_r P(path | ghost_r)`` over random directions ``r`` that are put
through the same formula as the explored one, at the same scale. It is the pointwise mutual
information of path and vector, with the mean over random directions for the path's own probability:
0 where the vector makes no difference, log 2 where it doubles the probability.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_explorer.errors import ExplorerError
from sae_explorer.model.decoding import FloatArray, IntArray, Prompt
from sae_explorer.model.ghost import SOURCES, ghost_vector, unit
from sae_explorer.model.scoring import PathScorer

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from sae_explorer.analyses.definition_tree import DefinitionTree
    from sae_explorer.analyses.trees import TreeRequest
    from sae_explorer.model.ghost import Vector
    from sae_explorer.model.interventions import Intervention
    from sae_explorer.subject import Subject

#: Log of a probability that no path of a tree falls below: it stands for 0.
_LOG_OF_NOTHING = float(np.log(np.finfo(np.float64).tiny))


class LiftMeasurement:
    """Measures the lift of every node of a tree, after the tree has been grown.

    Parameters
    ----------
    subject
        The model.
    parent, token_id
        The tree, as :class:`~sae_explorer.model.scoring.PathScorer` takes it.
    log_probability
        Shape ``[nodes]``: log of each node's cumulative probability under the explored vector.
    prompts
        The prompt with a random vector in the explored one's place, once for each of them.
    interventions
        Those that the tree was grown under.
    """

    def __init__(
        self,
        subject: Subject,
        parent: IntArray,
        token_id: IntArray,
        log_probability: FloatArray,
        prompts: Sequence[Prompt],
        interventions: Sequence[Intervention] = (),
    ) -> None:
        self._parent = parent
        self._own = log_probability
        self._scorer = PathScorer(subject, parent, token_id, prompts, interventions)

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return self._scorer.share

    @property
    def finished(self) -> bool:
        """Whether every node has been measured."""
        return self.share == 1

    def steps(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Measure until all is done or ``cancel`` is set, giving way after every forward."""
        yield from self._scorer.steps(cancel)

    def result(self) -> FloatArray:
        """Return the lift of each node, shape ``[nodes]``, float64, in units of log probability.

        That of the root is 0; NaN stands where a random direction has not been scored yet.
        """
        return self._own - log_mean(along_paths(self._parent, self._scorer.log_probability))


def random_prompts(
    subject: Subject, request: TreeRequest, prompt: Prompt, count: int, seed: int
) -> list[Prompt]:
    """Return a prompt with random vectors in the place of the explored one.

    Parameters
    ----------
    subject
        The model.
    request
        Where the explored vector comes from. A random direction takes the place of the unit
        direction; scale, centroid and components stay. For ``token=`` and ``embedding=``, which
        have no direction, it is a random vector of the embedding's length.
    prompt
        The prompt of the request. Another ghost in it, where there is one, stays.
    count
        How many.
    seed
        Of the random numbers.
    """
    ghost = subject.token_id(request.ghost_token or subject.default_ghost_token)
    vectors = random_vectors(subject, request, count, seed)
    return [Prompt(prompt.ids, {**prompt.ghosts, ghost: vector}) for vector in vectors]


def random_vectors(subject: Subject, request: TreeRequest, count: int, seed: int) -> list[Vector]:
    """Return random vectors like the explored one, as :func:`random_prompts` describes them."""
    drawn = np.random.default_rng(seed).standard_normal((count, subject.d_model))
    as_it_is = request.token is not None or request.embedding is not None
    length = float(np.linalg.norm(ghost_vector(subject, request))) if as_it_is else 1.0
    nothing: dict[str, Any] = dict.fromkeys(SOURCES)
    vectors = []
    for row in drawn.astype(np.float32):
        values = tuple((length * unit(row, "The random vector")).tolist())
        source = {"embedding": values} if as_it_is else {"vector": values}
        vectors.append(ghost_vector(subject, replace(request, **{**nothing, **source})))
    return vectors


def measure_lift(
    tree: DefinitionTree,
    random: int = 8,
    seed: int = 0,
    subject: Subject | None = None,
    cancel: threading.Event | None = None,
) -> FloatArray:
    """Measure the lift of every node of a tree that has been grown already.

    Parameters
    ----------
    tree
        The tree.
    random
        Number of random directions; the more, the less the lift hangs on their choice.
    seed
        Of the random directions.
    subject
        The model, needed for a tree that was read from a file.
    cancel
        When it is set, measuring stops at the next step.

    Returns
    -------
    numpy.ndarray
        Shape ``[nodes]``, float64: ``log P(path | ghost) - log mean_r P(path | ghost_r)``, 0 for the
        root; NaN where a cancel came before.

    Raises
    ------
    ExplorerError
        If ``random`` is no positive number, or the tree has no model to ask.

    Examples
    --------
    >>> tree = grow_tree(Subject.demo(), feature=302, cutoff=1e-3)  # doctest: +SKIP
    >>> tree.to_frame().assign(lift=measure_lift(tree))  # doctest: +SKIP
    """
    if not replace(tree.request, lift=random, lift_seed=seed).lift:  # which checks both
        raise ExplorerError(f"random is {random}; lift needs at least 1 random direction.")
    live = tree.live_subject(subject)
    prompts = random_prompts(live, tree.request, tree.prompt_with_ghosts(), random, seed)
    measurement = LiftMeasurement(
        live,
        tree.parent,
        tree.token_id,
        np.log(tree.cumulative_probability),
        prompts,
        tree.request.interventions,
    )
    for _ in measurement.steps(cancel):
        pass
    return measurement.result()


def along_paths(parent: IntArray, log_probability: FloatArray) -> FloatArray:
    """Add up along the paths from the root.

    Parameters
    ----------
    parent
        Shape ``[nodes]``; a parent stands before its children, the root is node 0.
    log_probability
        Shape ``[..., nodes]``: of each node after its parent.

    Returns
    -------
    numpy.ndarray
        The same shape: of each node's whole path.
    """
    total = log_probability.copy()
    for node, above in enumerate(parent.tolist()):
        if above >= 0:
            total[..., node] += total[..., above]
    return total


def log_mean(log_probability: FloatArray) -> FloatArray:
    """Return the log of the mean of probabilities given as logs, over the first axis; finite."""
    largest = np.maximum(log_probability.max(axis=0), _LOG_OF_NOTHING)
    with np.errstate(divide="ignore"):
        mean: FloatArray = largest + np.log(np.exp(log_probability - largest).mean(axis=0))
    return np.maximum(mean, _LOG_OF_NOTHING)
