"""Interventions carried out: the activation at an SAE's hook point, changed while the model runs.

A transcoder measures at one hook point and writes at another of the same forward.
"""

from __future__ import annotations

import copy
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sae_explorer.errors import ExplorerError
from sae_explorer.model import encoding, reading
from sae_explorer.model.direction import LARGEST, Direction, check_sum
from sae_explorer.model.interventions import Steer
from sae_explorer.model.positions import current
from sae_explorer.model.sites import edited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from sae_lens import SAE
    from torch import Tensor

    from sae_explorer.model.direction import Term
    from sae_explorer.model.interventions import At, Intervention
    from sae_explorer.model.positions import Layout
    from sae_explorer.subject import Subject

#: SAEs that divide what they read by a norm of its own, and multiply what they write by it again.
_NORMALISED = ("constant_norm_rescale", "layer_norm")

#: SAEs whose edits were seen to reach a model's output.
_tried: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def check(subject: Subject, interventions: Sequence[Intervention]) -> None:
    """Refuse interventions that cannot be carried out.

    Raises
    ------
    ExplorerError
        If the SAE has no such feature, two interventions want one feature at different values at
        one place, a decoder vector is zero, the SAE is of a kind that cannot be changed in this
        way, or its hook point is not in the model.
    """
    if not interventions:
        return
    sae = subject.sae.sae
    encoding.refuse_without_activations(subject.sae)
    features = [_features(one) for one in interventions]
    for number, one in enumerate(interventions):
        if isinstance(one.feature, Direction):
            added_vector(subject, one.feature)
        else:
            subject.sae.check_feature(one.feature)
            if not bool(sae.W_dec[one.feature].any()):
                raise ExplorerError(
                    f"The decoder vector of feature {one.feature} is zero, so nothing changes with "
                    "it. Choose another one."
                )
        for before, other in enumerate(interventions[:number]):
            shared = features[number] & features[before]
            held = not (isinstance(one, Steer) and isinstance(other, Steer))
            if shared and held and not _apart(one.at, other.at):
                raise ExplorerError(
                    f"Feature {min(shared)} is held at one value and changed by another intervention at "
                    f"the same places ({other.label}; {one.label}). Take one of them out, perhaps "
                    "from interventions=."
                )
    subject.site()
    subject.site_out()


def _features(one: Intervention) -> frozenset[int]:
    """Return the features whose decoder rows an intervention adds."""
    if isinstance(one.feature, Direction):
        terms = one.feature.terms
        return frozenset(t.feature for t in terms if t.writes and t.feature is not None)
    return frozenset((one.feature,))


def _apart(first: At, second: At) -> bool:
    """Tell whether no place of any text is meant by both."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        one_way = len({place < 0 for place in (*first, *second)}) == 1
        return one_way and not set(first) & set(second)

    def in_prompt(at: At) -> bool:
        return at in ("prompt", "ghost") if isinstance(at, str) else max(at) < 0

    return any(
        one == "generated" and in_prompt(other) for one, other in ((first, second), (second, first))
    )


@contextmanager
def applied(subject: Subject, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Hold the subject for a run in which every forward is changed by the interventions.

    They act on the selected SAE's features, with a cache or without. The first time that an SAE is
    used on a model, a forward of two tokens checks that they reach the output.

    Parameters
    ----------
    subject
        The model and the SAE.
    interventions
        None, one or several.

    Raises
    ------
    ExplorerError
        As :func:`check` does; or if the output does not change when the activation does.
    """
    with applied_by_row(subject, [interventions]):
        yield


@contextmanager
def applied_by_row(subject: Subject, rows: Sequence[Sequence[Intervention]]) -> Iterator[None]:
    """Hold the subject for a run in which each row of the batch is changed in its own way.

    Parameters
    ----------
    subject
        The model and the SAE.
    rows
        The interventions of each row of every forward in the block; if there is only one entry, it
        holds for all rows. Those of other positions than all need
        :func:`~sae_explorer.model.positions.announced`.

    Raises
    ------
    ExplorerError
        As :func:`applied` does; and by a forward whose batch has another number of rows, whose
        positions are not known where they are needed, or whose text has no such place.
    """
    with Changes(subject, rows).applied():
        yield


class Changes:
    """Interventions that are applied again and again, such as at every step of a growing tree.

    What they need of the SAE and of the model is looked up once.

    Parameters
    ----------
    subject, rows
        As :func:`applied_by_row` takes them.

    Raises
    ------
    ExplorerError
        As :func:`check` does.
    """

    def __init__(self, subject: Subject, rows: Sequence[Sequence[Intervention]]) -> None:
        for interventions in rows:
            check(subject, interventions)
        self._subject = subject
        self._rows = [[one for one in row if not one.does_nothing] for row in rows]
        self._edit: _Edit | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the subject for a run in which every forward is changed; see :func:`applied`."""
        with self._subject.run():
            if not any(self._rows):
                yield
                return
            if self._edit is None:
                self._edit = self._prepared()
            with self._edit.entered():
                yield

    def _prepared(self) -> _Edit:
        if self._subject.sae.sae not in _tried.setdefault(self._subject.model, weakref.WeakSet()):
            _try_out(self._subject)
        edit = _Edit(self._subject, len(self._rows))
        for row, interventions in enumerate(self._rows):
            for one in interventions:
                edit.add(one, row if len(self._rows) > 1 else None)
        edit.finish()
        return edit


@dataclass(frozen=True, eq=False)
class _Part:
    """One intervention, ready to be carried out.

    Parameters
    ----------
    intervention
        Says where it acts.
    row
        Row of the batch, None for all.
    column
        Its place among the features, or among the vectors, that are changed.
    value
        In the units of these.
    kind
        Whether the value is added to a feature's activation, held there, or added times a vector.
    """

    intervention: Intervention
    row: int | None
    column: int
    value: float
    kind: Literal["add", "hold", "vector"]


class _Edit:
    """A change of the activation where an SAE writes, made of parts.

    All of them are the rows of one matrix product: a feature's decoder row or a vector, times a
    number for each position.
    """

    def __init__(self, subject: Subject, rows: int) -> None:
        self._subject = subject
        self._rows = rows
        self._features: list[int] = []
        self._vectors: list[Tensor] = []
        self._parts: list[_Part] = []
        bos = subject.tokenizer.bos_token_id
        self._bos = -1 if bos is None else int(bos)

    def add(self, one: Intervention, row: int | None) -> None:
        """Take one more intervention, of one row of the batch or of all."""
        if isinstance(one, Steer) and one.unit == "residual_norm":
            vector = added_vector(self._subject, one.feature)
            size = reading.residual_norm(self._subject) / float(vector.norm())
            self._add_vector(one, row, vector, one.strength * size)
        elif isinstance(one.feature, Direction):
            # Term by term, so that a feature in a sum is what it is alone.
            for term in one.feature.terms:
                value = term.weight * float(getattr(one, one.amount))
                if term.writes:
                    self._add_feature(one, row, term.feature, value, "add")
                else:
                    self._add_vector(one, row, _own_vector(self._subject, term), value)
        else:
            value = float(getattr(one, one.amount)) if one.amount else 0.0
            if getattr(one, "unit", "") == "max_activation":
                value *= reading.largest(self._subject, one.feature)
            how: Literal["add", "hold"] = "add" if isinstance(one, Steer) else "hold"
            self._add_feature(one, row, one.feature, value, how)

    def _add_vector(self, one: Intervention, row: int | None, vector: Tensor, value: float) -> None:
        _check_size(one, value * float(vector.abs().max()))
        self._parts.append(_Part(one, row, len(self._vectors), value, "vector"))
        self._vectors.append(vector)

    def _add_feature(
        self,
        one: Intervention,
        row: int | None,
        feature: Any,
        value: float,
        how: Literal["add", "hold"],
    ) -> None:
        _check_size(one, value)
        if feature not in self._features:
            self._features.append(feature)
        self._parts.append(_Part(one, row, self._features.index(feature), value, how))

    def finish(self) -> None:
        """Look up what the interventions need; no more come."""
        subject, whole = self._subject, encoding.quiet(self._subject.sae.sae)
        self._whole = whole
        self._alone = whole.cfg.architecture() in encoding.ALONE
        self._narrow = encoding.narrowed(whole, self._features) if self._features else whole
        # A decoder is affine. Unless its output is scaled by what was encoded, a feature's row is the
        # same at every position, and nothing need be encoded to add a multiple of it.
        scaled = whole.cfg.normalize_activations in _NORMALISED
        fixed = self._features and not scaled
        self._decoded = _decoder_rows(whole, self._features) if fixed else None
        self._decoder = _in_float32(self._narrow) if scaled else self._narrow
        holds = any(part.kind == "hold" for part in self._parts)
        self._measures = bool(self._features) and (scaled or holds)
        self._added = torch.stack(self._vectors) if self._vectors else None
        self._sites = subject.site(), subject.site_out()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the change in every forward within the block."""
        subject, whole, narrow, alone = self._subject, self._whole, self._narrow, self._alone
        rows, measures, vectors = self._decoded, self._measures, self._added
        decoder = self._decoder
        at_once = encoding.positions_at_once(len(self._features) if alone else subject.sae.width)
        reads, writes = self._sites
        pending: list[Tensor | None] = []

        def in_features(x: Tensor) -> Tensor | None:
            """Return what the changes of features add, shape ``[positions or 1, d_out]``."""
            acting = self._acting(x, ("add", "hold"))
            if acting is None:
                return None
            device = narrow.W_dec.device
            count = len(self._features)
            added, held = (
                self._numbers(acting, kind, count).to(device) for kind in ("add", "hold")
            )
            if not measures:
                assert rows is not None  # or it would have to measure
                return added @ rows
            holds = self._numbers(acting, "hold", count, mark=True).to(device)
            changes, start = [], 0
            for part in torch.split(encoding.positions_for(subject.sae, x), at_once):
                at = slice(start, start + len(part)) if len(added) > 1 else slice(None)
                start += len(part)
                read = narrow.encode(part) if alone else whole.encode(part)[..., self._features]
                difference = added[at] + holds[at] * (held[at] - read)
                if rows is not None:
                    changes.append(difference.to(rows) @ rows)
                else:
                    # One call, since the factor is kept from encode to the next decode and no further.
                    difference = difference.to(decoder.W_dec)
                    both = decoder.decode(torch.stack([difference, torch.zeros_like(difference)]))
                    changes.append(both[0] - both[1])
            return torch.cat(changes)

        def measure(x: Tensor) -> Tensor:
            pending[:] = [in_features(x)]
            return x

        def write(x: Tensor) -> Tensor:
            if measures and not pending:
                raise ExplorerError(
                    f"{subject.sae.sae_id} writes at {writes.name}, but "
                    f"{type(subject.model).__name__} had not run {reads.name} before, where it reads. "
                    "Use the model that the SAE was trained on."
                )
            changes = [pending.pop() if measures else in_features(x) if self._features else None]
            acting = self._acting(x, ("vector",))
            if vectors is not None and acting is not None:
                numbers = self._numbers(acting, "vector", len(vectors))
                changes.append(numbers.to(vectors.device) @ vectors)
            for change in changes:
                if change is not None:  # the sum is in the wider of the two dtypes
                    whole_shape = (
                        x.shape if len(change) > 1 or x[..., 0].numel() == 1 else (1, 1, -1)
                    )
                    x = x + change.reshape(whole_shape).to(x.device)
            return x

        with ExitStack() as stack:
            if measures:
                stack.enter_context(edited(reads, measure))
            stack.enter_context(edited(writes, write))
            yield

    def _acting(
        self, x: Tensor, kinds: tuple[str, ...]
    ) -> tuple[tuple[int, int], dict[_Part, NDArray[np.bool_] | None]] | None:
        """Return the parts that act in a forward and where, None if none does.

        Where is an array of shape ``[batch, n]``, or None for everywhere.
        """
        shape = (x.shape[0], x.shape[1])
        if self._rows not in (1, shape[0]):
            raise ExplorerError(
                f"Interventions were given for {self._rows} rows, but the batch has {shape[0]}. Give "
                "a list of interventions for each row, or one for all."
            )
        places = {
            p: _places(p.intervention, shape, self._bos) for p in self._parts if p.kind in kinds
        }
        acting = {part: at for part, at in places.items() if at is None or at.any()}
        return (shape, acting) if acting else None

    @staticmethod
    def _numbers(
        acting: tuple[tuple[int, int], dict[_Part, NDArray[np.bool_] | None]],
        kind: str,
        columns: int,
        *,
        mark: bool = False,
    ) -> Tensor:
        """Return the values of one kind of parts at each position, shape ``[positions or 1, columns]``.

        One row stands for all where they are the same. With ``mark`` each value is 1.
        """
        shape, places = acting
        own = {part: at for part, at in places.items() if part.kind == kind}
        if all(at is None and part.row is None for part, at in places.items()):
            numbers = np.zeros((1, 1, columns), np.float32)
        else:
            numbers = np.zeros((*shape, columns), np.float32)
        for part, at in own.items():
            rows = slice(None) if part.row is None else slice(part.row, part.row + 1)
            where = 1.0 if at is None else at[rows]
            numbers[rows, :, part.column] += where * (1.0 if mark else part.value)
        return torch.from_numpy(numbers.reshape(-1, columns))


def _places(
    intervention: Intervention, shape: tuple[int, int], bos: int
) -> NDArray[np.bool_] | None:
    """Return where in a forward an intervention acts, shape ``[batch, n]``; None: everywhere."""
    if intervention.at == "all" and not (intervention.skip_bos and bos >= 0):
        return None
    layout = current()
    if layout is None or layout.ids.shape != shape:
        raise ExplorerError(
            "An intervention at some positions only is at work in a forward whose positions are not "
            "known. Run the model through sae_explorer's own functions, or announce them."
        )
    return _chosen(intervention, layout, bos)


def _chosen(intervention: Intervention, layout: Layout, bos: int) -> NDArray[np.bool_]:
    in_prompt = layout.position < layout.prompt_length
    where: NDArray[np.bool_]
    match intervention.at:
        case "all":
            where = np.ones(layout.ids.shape, dtype=bool)
        case "prompt":
            where = in_prompt
        case "generated":
            where = ~in_prompt
        case "ghost":
            if in_prompt.any() and not layout.ghost_ids:
                raise ExplorerError(
                    f"An intervention acts at the ghost ({intervention.label}), but the text has "
                    "none. Choose other positions, such as at='prompt'."
                )
            where = in_prompt & np.isin(layout.ids, layout.ghost_ids)
        case places:
            wanted = np.array(places)[:, None, None]
            shortest, first = int(layout.prompt_length.min()), int(wanted.min())
            if first < -shortest:
                raise ExplorerError(
                    f"An intervention acts at place {first} ({intervention.label}), but the "
                    f"prompt has {shortest} tokens, -{shortest} to -1. Choose one of these."
                )
            counted = np.where(wanted < 0, layout.prompt_length + wanted, wanted)
            where = (layout.position == counted).any(axis=0)
    if intervention.skip_bos and isinstance(intervention.at, str):  # a listed place is meant
        where = where & ~((layout.position == 0) & (layout.ids == bos))
    return where


def _check_size(one: Intervention, size: float) -> None:
    """Refuse products of numbers, each of them possible, that a norm would make nothing of."""
    if abs(size) > LARGEST:
        raise ExplorerError(
            f"{one.label} comes to {size:.2g}; at most {LARGEST:g} is possible. Take a smaller number."
        )


def added_vector(subject: Subject, what: int | Direction) -> Tensor:
    """Return what a strength is a multiple of: shape ``[d_out]``, float32, on the SAE's device.

    Raises
    ------
    ExplorerError
        If a direction does not lie where the SAE writes, or cancels out.
    """
    if not isinstance(what, Direction):
        return _decoder_rows(subject.sae.sae, [what])[0]
    found = [(term.weight, _own_vector(subject, term).cpu().numpy()) for term in what.terms]
    check_sum(what, found)
    total = sum((w * v.astype(np.float64) for w, v in found), start=np.zeros(1))
    return torch.from_numpy(np.asarray(total, np.float32)).to(subject.sae.sae.W_dec.device)


def _own_vector(subject: Subject, term: Term) -> Tensor:
    """Return what one term of a direction adds at weight 1, shape ``[d_out]``, float32."""
    sae = subject.sae
    like = sae.sae.W_dec
    own: Any = term.vector
    if term.feature is not None:
        sae.check_feature(term.feature)
        if term.writes:
            return _decoder_rows(sae.sae, [term.feature])[0]
        own = sae.encoder(term.feature)
    own = np.asarray(own, np.float32)
    if own.shape != like.shape[1:]:
        raise ExplorerError(
            f"{term.text} in a direction has {own.size} numbers; {sae.sae_id} writes activations of "
            f"{like.shape[1]}. Steer along vectors from where it writes."
        )
    return torch.from_numpy(own).to(like.device)


def _decoder_rows(sae: SAE[Any], features: Sequence[int]) -> Tensor:
    """Return what features add at activation 1, shape ``[features, d_out]``, float32.

    Where an SAE multiplies its output by a norm of what it read, before that.
    """
    twin = _in_float32(encoding.narrowed(encoding.quiet(sae), features))
    twin.run_time_activation_norm_fn_out = lambda out: out
    ones = torch.eye(len(features)).to(twin.W_dec)
    rows: Tensor = twin.decode(ones) - twin.decode(torch.zeros_like(ones))
    return rows.detach()


def _in_float32(sae: SAE[Any]) -> SAE[Any]:
    """Return the SAE for decoding: a difference of two sums in half precision is no feature's row."""
    twin = copy.copy(sae)
    twin._parameters = {  # noqa: SLF001
        name: None if weights is None else torch.nn.Parameter(weights.float(), requires_grad=False)
        for name, weights in sae._parameters.items()  # noqa: SLF001
    }
    return twin


def _try_out(subject: Subject) -> None:
    """Check, once for each SAE on each model, that a change where it writes reaches the output."""
    sae = subject.sae.sae
    much = torch.randn(sae.W_dec.shape[1], generator=torch.Generator().manual_seed(0)) * 1000
    # Two tokens, and different ones: with a single key, attention leaves nothing to choose.
    tokens = torch.arange(2, device=subject.device)[None]
    before: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    with edited(subject.site_out(), lambda x: x + much.to(x.device)):
        after: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    if torch.equal(before, after):
        raise ExplorerError(
            f"A change at {subject.site_out().path} does not reach the output of this "
            f"{type(subject.model).__name__}, so no intervention of {subject.sae.sae_id} would do "
            "anything. Load the model anew, without compiling it or replacing its layers."
        )
    _tried[subject.model].add(sae)
