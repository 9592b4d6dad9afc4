"""Texts that go on from one prompt under different interventions, sampled side by side.

One batch holds a row for each plan of interventions; the model keeps its own cache, and each token
costs one forward of all rows. All rows are drawn with the same random numbers, so that they differ
by their interventions and by nothing else.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from sae_explorer.errors import ExplorerError
from sae_explorer.model.changes import Changes
from sae_explorer.model.positions import Layout, announced
from sae_explorer.model.reading import check_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from sae_explorer.model.interventions import Intervention
    from sae_explorer.subject import Subject

Plan: TypeAlias = "tuple[Intervention, ...]"

#: In place of a token in a row that has ended.
ENDED = -1

#: Temperatures up to this one are none: logits divided by them are too large for random numbers.
_COLDEST = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Parameters
    ----------
    temperature
        Divides the logits; 0, and what is as good as 0, takes the most probable token.
    top_p
        Only the most probable tokens that together reach this probability are drawn from (Holtzman
        et al., 2020), after the temperature.
    frequency_penalty
        Taken from a token's logit for each time that it was generated in the row already.
    seed
        Of the random numbers.
    max_tokens
        Largest number of tokens in a row.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    seed: int = 0
    max_tokens: int = 40


@dataclass(frozen=True)
class Step:
    """One token of every row.

    Parameters
    ----------
    token_ids
        Shape ``[rows]``, int64; `ENDED` in a row that had ended before.
    probability
        Shape ``[rows]``, float64: what the model, under the row's interventions, gave to the token,
        before penalty, temperature and nucleus; NaN in a row that had ended.
    logits
        Shape ``[rows, vocabulary]``, float32: what the model gave to all tokens.
    """

    token_ids: NDArray[np.int64]
    probability: NDArray[np.float64]
    logits: Tensor


class Continuations:
    """The texts of all rows, as far as they have been generated.

    Parameters
    ----------
    rows
        How many there are.
    end_ids
        Token ids that end a text; the one that ended a text is its last token.
    """

    def __init__(self, rows: int, end_ids: Sequence[int]) -> None:
        self.token_ids: list[list[int]] = [[] for _ in range(rows)]
        self.probability: list[list[float]] = [[] for _ in range(rows)]
        self._end_ids = frozenset(end_ids)

    def add(self, step: Step) -> None:
        """Lengthen the rows that have not ended."""
        for row, token in enumerate(step.token_ids.tolist()):
            if token != ENDED:
                self.token_ids[row].append(token)
                self.probability[row].append(float(step.probability[row]))

    @property
    def ended(self) -> list[bool]:
        """Whether the model ended each text."""
        return [bool(ids) and ids[-1] in self._end_ids for ids in self.token_ids]

    @property
    def length(self) -> int:
        """Number of tokens of the longest."""
        return max(map(len, self.token_ids))

    def said(self) -> list[list[int]]:
        """Return the token ids of each text without the one that ended it."""
        return [
            ids[:-1] if ended else ids
            for ids, ended in zip(self.token_ids, self.ended, strict=True)
        ]


def text_ids(subject: Subject, text: str) -> list[int]:
    """Return the token ids of a text to go on from, the beginning-of-text token included.

    Raises
    ------
    ExplorerError
        If the text has no tokens and the tokenizer no beginning-of-text token.
    """
    ids = [int(i) for i in subject.tokenizer.encode(text)] if text else []
    if len(ids) > 1 and ids[-1] in subject.end_ids:
        ids.pop()  # some tokenizers say that the text ends here; it is to go on
    if ids:
        return ids
    begin = subject.tokenizer.bos_token_id
    if begin is None:
        raise ExplorerError(
            f"The text to go on from, {text!r}, has no tokens, and the tokenizer no "
            "beginning-of-text token to begin with. Give a word or more."
        )
    return [int(begin)]


def continue_rows(
    subject: Subject,
    ids: Sequence[int],
    rows: Sequence[Sequence[Intervention]],
    sampling: Sampling,
) -> Iterator[Step]:
    """Generate a text for each row of interventions, a token of all at a time.

    Rows under equal interventions, a steering strength of 0 left out, are computed once and equal to
    the bit. Others depend on what they are computed together with by rounding alone.

    Between two steps the model is free for others, and as it was: there is nothing to clean up when
    the steps are not taken to their end.

    Parameters
    ----------
    subject
        The model and the SAE.
    ids
        Token ids of the prompt, at least one.
    rows
        The interventions of each row.
    sampling
        How tokens are chosen.

    Yields
    ------
    Step
        Until all rows have ended, or are as long as was asked for.

    Raises
    ------
    ExplorerError
        If the text would be longer than the model's positions reach, an intervention cannot be
        carried out, or the logits are not finite.
    """
    check_length(subject, len(ids), sampling.max_tokens)
    plans: dict[Plan, int] = {}
    plan_of_row = [plans.setdefault(_effective(row), len(plans)) for row in rows]
    return _steps(subject, ids, list(plans), plan_of_row, sampling)


def _steps(
    subject: Subject,
    ids: Sequence[int],
    plans: Sequence[Plan],
    plan_of_row: Sequence[int],
    sampling: Sampling,
) -> Iterator[Step]:
    ends = torch.tensor(subject.end_ids, dtype=torch.long)
    generator = torch.Generator().manual_seed(sampling.seed)
    ended = torch.zeros(len(plans), dtype=torch.bool)
    counts: Tensor | None = None
    cache: Any = None
    changes = Changes(subject, plans)
    text = new = torch.tensor([ids] * len(plans))
    for _ in range(sampling.max_tokens):
        layout = Layout.of(new, len(ids), first=text.shape[1] - new.shape[1])
        # Entered anew for each step: whoever takes the steps may stop at any of them.
        with changes.applied(), announced(layout):
            logits, cache = _forward(subject, new, cache)
        if counts is None:
            counts = torch.zeros_like(logits)
        chosen = _choose(logits - sampling.frequency_penalty * counts, sampling, generator)
        counts[torch.arange(len(plans)), chosen] += 1
        # One by one: a row's probability is the same to the bit whatever the others are.
        probability = torch.stack(
            [row.softmax(dim=-1)[token] for row, token in zip(logits, chosen, strict=True)]
        ).double()
        probability[ended] = torch.nan
        tokens = chosen.masked_fill(ended, ENDED)
        yield Step(
            token_ids=tokens[plan_of_row].numpy(),
            probability=probability[plan_of_row].numpy(),
            logits=logits[plan_of_row],
        )
        ended |= torch.isin(chosen, ends)
        if ended.all():
            return
        text = torch.cat([text, chosen[:, None]], dim=1)
        new = text if cache is None else chosen[:, None]


def _effective(row: Sequence[Intervention]) -> Plan:
    """Return the interventions of a row that do something."""
    return tuple(one for one in row if not one.does_nothing)


def _forward(subject: Subject, new: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Return the logits after the last token of each row, on the CPU in float32, and the cache.

    The cache is None where the model keeps none that it would take back.
    """
    options: dict[str, Any] = {"use_cache": True}
    if cache is not None:
        options["past_key_values"] = cache  # at first the model makes its own
    if "logits_to_keep" in inspect.signature(subject.model.forward).parameters:
        options["logits_to_keep"] = 1
    output = subject.model(input_ids=new.to(subject.device), **options)
    logits: Tensor = output.logits[:, -1].float().cpu()
    if not logits.isfinite().all():
        raise ExplorerError(
            "The model gave NaN or infinite logits. Take smaller strengths; if that does not help, "
            "float16 may be too narrow for it: load it with dtype='bfloat16' or 'float32'."
        )
    return logits, getattr(output, "past_key_values", None)


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Return the next token of each row, shape ``[rows]``, from logits of ``[rows, vocabulary]``."""
    if sampling.temperature <= _COLDEST:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        ordered = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.values.cumsum(dim=-1) - ordered.values
        outside = torch.empty_like(before, dtype=torch.bool)
        outside.scatter_(-1, ordered.indices, before >= sampling.top_p)
        outside.scatter_(-1, ordered.indices[:, :1], value=False)
        logits = logits.masked_fill(outside, -torch.inf)
    # The largest of logits with Gumbel noise is distributed as softmax says. With the same noise in
    # all rows, similar distributions mostly give the same token.
    uniform = torch.rand(logits.shape[-1], generator=generator, dtype=torch.float64)
    return (logits.double() - (-uniform.log()).log()).argmax(dim=-1)
