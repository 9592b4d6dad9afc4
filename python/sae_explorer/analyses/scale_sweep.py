"""How long the vector should be: a sweep of scales, and the best of them.

A short vector leaves the model with the answer that it gives to no word in particular; a long one
leaves it with none that makes sense. Between them lies where to ask, and it differs from feature to
feature. Two measurements at each scale, in one forward of all:

* *self-similarity*, the cosine between the feature's direction and the residual stream at the
  prompt's last token: how much of the direction has come through to where the answer begins;
* *cross-entropy* of the answer's first token to the answer that the mean embedding gets,
  ``H(p_s, p_mu) = -sum p_s log p_mu``: how far the answer has left what the prompt makes likely.

Each is scaled to 0..1 over the sweep, and the best scale has the largest *composite*,
``0.4 * self-similarity - 0.6 * cross-entropy``, after "Self-explaining SAE features" (Kharlapenko,
Neverov, Nanda and Conmy, 2024). The residual stream is read behind the last block but one, which is
also where it told good scales from bad ones best on the bundled model; there, self-similarity alone
found better scales than the composite did, so look at both curves.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from sae_explorer.analyses import Progress
from sae_explorer.analyses.definition_tree import closing_of
from sae_explorer.analyses.trees import TreeRequest
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.model import sites
from sae_explorer.model.changes import applied, check
from sae_explorer.model.decoding import (
    Prompt,
    ghost_rows,
    last_logits,
    open_decoder,
    prompt_layout,
    refuse_nan,
)
from sae_explorer.model.direction import LARGEST, Direction
from sae_explorer.model.ghost import SOURCES, DirectionRequest, ghost_vector, ghosts
from sae_explorer.model.interventions import Intervention  # noqa: TC001 - a request reads its annotations
from sae_explorer.model.positions import announced
from sae_explorer.model.reading import check_length
from sae_explorer.request import option, takes
from sae_explorer.results import Provenance, Result, column
from sae_explorer.subject import SECOND_PLACEHOLDER
from sae_explorer.text import visible

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from sae_explorer.subject import Subject

#: Scales that are tried unless others are given, as multiples of the subject's own.
_GRID = tuple(np.geomspace(0.2, 4.0, 24).tolist())

#: What the two measurements count for in the composite.
_SIMILARITY, _CROSS_ENTROPY = 0.4, 0.6

#: Scales of one sweep, which are run as one batch.
_MOST_SCALES = 64

#: Length of the answers that are shown.
_ANSWER_TOKENS = 6


def _as_in_tree(name: str) -> Any:
    """Declare an option of trees here too: its default, range and help are written down once."""
    declared = next(f for f in dataclasses.fields(TreeRequest) if f.name == name)
    return dataclasses.field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, kw_only=True)
class ScaleRequest(DirectionRequest):
    """The question whose answer is a :class:`ScaleSweep`."""

    group: ClassVar[str] = "scales"

    prompt: str = _as_in_tree("prompt")
    second: Direction | None = _as_in_tree("second")  # noqa: RUF009 - a field, like option()
    ghost_token: str | None = _as_in_tree("ghost_token")
    interventions: tuple[Intervention, ...] = _as_in_tree("interventions")
    grid: tuple[float, ...] = option(
        (),
        "Scales to try; empty takes 24 from 0.2 to 4 times the subject's own, evenly on a "
        "logarithmic axis.",
        above=0.0,
        maximum=LARGEST,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("token", "embedding"):
            if getattr(self, name) is not None:
                raise ExplorerError(
                    f"A {name}= stands in as it is, without a scale, so there is none to sweep. "
                    "Give a feature=, direction= or vector=."
                )
        if len(self.grid) > _MOST_SCALES:
            raise ExplorerError(
                f"grid has {len(self.grid):,} scales; at most {_MOST_SCALES} are possible, since all are "
                "run together."
            )
        self._as_tree()  # refuses what a tree does

    def _as_tree(self) -> TreeRequest:
        """Return the request for the tree that a scale is looked for."""
        own = {f.name for f in dataclasses.fields(self)}
        shared = [f.name for f in dataclasses.fields(TreeRequest) if f.name in own]
        return TreeRequest(**{name: getattr(self, name) for name in shared})

    @property
    def uses_sae(self) -> bool:
        """Whether the answer hangs on the subject's SAE."""
        return self._as_tree().uses_sae

    @property
    def label(self) -> str:
        """What the vectors stand for, and what else is changed, in a few words."""
        return self._as_tree().label


@dataclass(frozen=True, eq=False, repr=False)
class ScaleSweep(Result):
    """What becomes of a vector at each of many scales.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    status
        ``"complete"``, or ``"partial"`` when it was cancelled before all answers were written.
    scale
        Length of the direction, in rising order; float64.
    self_similarity
        Cosine between the direction and the residual stream at the prompt's last token, behind the
        last block but one; float64.
    cross_entropy
        That of the next token's distribution to the mean embedding's, in nats; float64.
    composite
        ``0.4 * self_similarity - 0.6 * cross_entropy``, each scaled to 0..1 first; float64.
    answers
        The first tokens of the most probable answer at each scale.
    in_use
        The scale that the request itself would take, None where it leaves the choice to the sweep.
    """

    kind: ClassVar[str] = "scale-sweep"

    request: ScaleRequest
    provenance: Provenance
    status: str
    scale: NDArray[np.float64]
    self_similarity: NDArray[np.float64]
    cross_entropy: NDArray[np.float64]
    composite: NDArray[np.float64]
    answers: list[str]
    in_use: float | None

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            getattr(self, name).setflags(write=False)

    def __len__(self) -> int:
        """Return the number of scales."""
        return len(self.scale)

    def __repr__(self) -> str:
        said = visible(self.answers[self.best])
        caveat = self.caveat and f". {self.caveat}"
        return (
            f"ScaleSweep({self.request.label}: best {self.best_scale:.3g} of {self.scale[0]:.3g} to "
            f"{self.scale[-1]:.3g}, where the answer is {said!r}{caveat})"
        )

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"Scales of {self.request.label}", caption=self.caveat or None)
        for name in ("scale", "self-similarity", "cross-entropy", "composite"):
            table.add_column(name, justify="right")
        table.add_column("answer")
        for row, answer in enumerate(self.answers):
            numbers = [f"{getattr(self, name)[row]:.3f}" for name in _COLUMNS]
            style = "bold" if row == self.best else None
            table.add_row(*numbers, Text(visible(answer)), style=style)
        return table

    @cached_property
    def best(self) -> int:
        """Row of the best scale: that with the largest composite."""
        return int(self.composite.argmax())

    @property
    def best_scale(self) -> float:
        """The scale with the largest composite."""
        return float(self.scale[self.best])

    @property
    def caveat(self) -> str:
        """A sentence that says so where the best scale is at an end of the grid; else empty."""
        if 0 < self.best < len(self) - 1:
            return ""
        return "The best is at the end of the grid: a better one may lie beyond."

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each scale.

        Columns: ``scale, self_similarity, cross_entropy, composite, answer, best``.
        """
        import pandas as pd

        frame = pd.DataFrame({name: getattr(self, name) for name in _COLUMNS})
        return frame.assign(answer=self.answers, best=np.arange(len(self)) == self.best)

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the curves; see :meth:`Result.payload`."""
        return {
            **super().payload(subject),
            "status": self.status,
            **{name: column(getattr(self, name)) for name in _COLUMNS},
            "best": self.best,
            "caveat": self.caveat,
            "shown": self.in_use,
            "answers": self.answers,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "columns": {
                **{name: column(getattr(self, name)) for name in _COLUMNS},
                "answer": self.answers,
            },
            "in_use": self.in_use,
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        return cls(
            request=ScaleRequest.from_options(request),
            provenance=provenance,
            status=body["status"],
            **{name: np.asarray(columns[name], np.float64) for name in _COLUMNS},
            answers=columns["answer"],
            in_use=body["in_use"],
        )


_COLUMNS = ("scale", "self_similarity", "cross_entropy", "composite")


@takes(ScaleRequest)
def sweep_scales(
    subject: Subject,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> ScaleSweep:
    """Try many lengths of a vector, and find the one at which to ask for its definition.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every step with a :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, the answers end at the next token, and the result is marked partial. An
        interrupt (Ctrl-C) does the same, with a :class:`~sae_explorer.PartialResultWarning`.

    Returns
    -------
    ScaleSweep
        A row for each scale; ``best_scale`` is the one that ``scale="auto"`` takes.

    Raises
    ------
    ExplorerError
        If an option is unknown or out of range, the source has no scale (``token=``,
        ``embedding=``), the prompt leaves the model no room for an answer, or as
        :func:`~sae_explorer.grow_tree` does.

    Examples
    --------
    >>> sweep = sweep_scales(Subject.demo(), feature=302, weights="decoder")  # doctest: +SKIP
    >>> sweep.best_scale  # doctest: +SKIP
    """
    request = ScaleRequest.from_options(options)
    return run(subject, request, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: ScaleRequest,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
) -> ScaleSweep:
    """Answer one request; see :func:`sweep_scales`."""
    curves = _Curves.measured(subject, request)
    check_length(subject, len(curves.prompts[0].ids), _ANSWER_TOKENS)
    in_use = subject.default_scale if request.scale is None else request.scale

    def result(answers: list[str], status: str) -> ScaleSweep:
        return ScaleSweep(
            request=request,
            provenance=subject.provenance(with_sae=request.uses_sae),
            status=status,
            scale=curves.scale,
            self_similarity=curves.self_similarity,
            cross_entropy=curves.cross_entropy,
            composite=curves.composite,
            answers=answers,
            in_use=None if isinstance(in_use, str) else in_use,
        )

    answers = [""] * len(curves.scale)
    try:
        for length, written in enumerate(_answers(subject, request, curves.prompts), 1):
            answers = written
            if progress is not None:
                text = f"answers, {length} of {_ANSWER_TOKENS} tokens"
                now = partial(result, answers, "partial")
                progress(Progress(length / _ANSWER_TOKENS, text, now))
            if length < _ANSWER_TOKENS and cancel is not None and cancel.is_set():
                return result(answers, "partial")
    except KeyboardInterrupt:
        warnings.warn("Interrupted: the result is partial.", PartialResultWarning, stacklevel=3)
        return result(answers, "partial")
    return result(answers, "complete")


def best_scale(subject: Subject, request: DirectionRequest) -> float:
    """Return the scale at which to make a ghost: the one that :func:`sweep_scales` finds.

    Parameters
    ----------
    subject
        The model and the SAE.
    request
        A tree's; its own scale is not looked at. One that has no prompt gets the usual one.
    """
    shared = {f.name for f in dataclasses.fields(ScaleRequest)} - {"grid", "scale"}
    asked = ScaleRequest(**{n: getattr(request, n) for n in shared if hasattr(request, n)})
    curves = _Curves.measured(subject, asked)
    return float(curves.scale[curves.composite.argmax()])


@dataclass(frozen=True)
class _Curves:
    """The measurements at all scales, and the prompts that they were made with."""

    prompts: Sequence[Prompt]
    scale: NDArray[np.float64]
    self_similarity: NDArray[np.float64]
    cross_entropy: NDArray[np.float64]

    @property
    def composite(self) -> NDArray[np.float64]:
        return _SIMILARITY * scaled(self.self_similarity) - _CROSS_ENTROPY * scaled(
            self.cross_entropy
        )

    @classmethod
    def measured(cls, subject: Subject, request: ScaleRequest) -> Self:
        """Run the prompt at all scales, and with the mean embedding, as one batch."""
        check(subject, request.interventions)
        scales = request.grid or tuple(subject.default_scale * step for step in _GRID)
        scales = tuple(sorted(set(scales)))
        *prompts, mean = _prompts(subject, request, scales)
        check_length(subject, len(mean.ids))
        plain = replace(request, scale=1.0, centroid=False, pca=())
        direction = torch.from_numpy(ghost_vector(subject, plain))
        with applied(subject, request.interventions), sites.read(_site(subject)) as seen:
            logits = _logits(subject, [*prompts, mean])
        stream = seen[-1][: len(prompts), -1].float()
        cosine = torch.nn.functional.cosine_similarity(
            stream, direction.to(stream.device)[None], dim=-1
        )
        answers = logits.softmax(dim=-1)[:-1]
        of_mean = logits.log_softmax(dim=-1)[-1]
        # The ghosts' own tokens have no probability in either.
        surprise = torch.where(answers > 0, -answers * of_mean, 0.0)
        found = [x.cpu().double().numpy() for x in (cosine, surprise.sum(dim=-1))]
        refuse_nan(np.stack(found))
        return cls(prompts, np.asarray(scales, np.float64), *found)


def scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values moved and stretched to 0..1; all 0 where they are equal."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def _prompts(subject: Subject, request: ScaleRequest, scales: Sequence[float]) -> Iterator[Prompt]:
    """Yield the prompt with the vector at each scale, and at last with the mean embedding."""
    name = request.ghost_token or subject.default_ghost_token
    sources = {name: request}
    if SECOND_PLACEHOLDER in request.prompt:
        other: dict[str, Any] = {**dict.fromkeys(SOURCES), "direction": request.second}
        sources[subject.second_ghost_token(name)] = replace(request, **other)
    ids = tuple(subject.encode_prompt(request.prompt, *sources))
    of = {subject.token_id(entry): source for entry, source in sources.items()}
    for scale in scales:
        vectors = {i: ghost_vector(subject, replace(r, scale=scale)) for i, r in of.items()}
        yield Prompt(ids, vectors)
    yield Prompt(ids, dict.fromkeys(of, subject.geometry.centroid))


def _site(subject: Subject) -> sites.Site:
    """Return where self-similarity is measured: behind the last block but one."""
    layer = max(0, len(sites.blocks(subject.model)) - 2)
    return sites.resolve(subject.model, f"blocks.{layer}.hook_resid_post")


def _logits(subject: Subject, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Return what follows each prompt, shape ``[prompts, vocabulary]``, without the ghosts."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=subject.device)
    rows = ghost_rows(prompts, subject.device)
    with ghosts(subject.model, rows), announced(prompt_layout(prompts, ids)):
        logits = last_logits(subject.model, ids, 1, use_cache=False)[:, 0].float()
    logits = logits.clone()
    logits[:, list(prompts[0].ghosts)] = -torch.inf
    return logits


def _answers(
    subject: Subject, request: ScaleRequest, prompts: Sequence[Prompt]
) -> Iterator[list[str]]:
    """Yield the greedy answers to all prompts, a token longer each time."""
    closing = closing_of(request.prompt)
    with subject.run():  # tried out on the model as it is
        decoder = open_decoder(subject.model, 1, _ANSWER_TOKENS, prompts[0])

    def text(path: list[int]) -> str:
        ends = [place for place, token in enumerate(path) if token in subject.end_ids]
        said = subject.continuation_text(prompts[0].ids, path[: ends[0]] if ends else path).lstrip()
        if closing and closing in said:
            return said[: said.index(closing)]
        return said if ends else said + "…"

    with applied(subject, request.interventions):
        prefixes, found = decoder.start(prompts)
    paths = found.token_ids
    while True:
        yield [text(path) for path in paths.tolist()]
        if paths.shape[1] == _ANSWER_TOKENS:
            return
        with applied(subject, request.interventions):
            prefixes, found = decoder.extend(prefixes, paths[:, -1])
        paths = np.hstack([paths, found.token_ids])
