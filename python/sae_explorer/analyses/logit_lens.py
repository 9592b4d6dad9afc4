"""Which tokens a direction writes towards: the logit lens (nostalgebraist, 2020).

A direction of the residual stream is read off by the unembedding, once after the model's final norm
(``LN_f(d) @ W_U``, as the model itself reads its residual stream) and once as it is (``d @ W_U``,
which is linear in it). Logits are those before any soft-cap or scaling, which do not change their
order; a bias of the unembedding is part of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from sae_explorer.errors import ExplorerError
from sae_explorer.model import sites
from sae_explorer.model.direction import Direction  # noqa: TC001 - a request reads its annotations
from sae_explorer.model.geometry import products
from sae_explorer.request import Request, option, takes
from sae_explorer.results import Provenance, Result, column, packed
from sae_explorer.text import visible_token

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import nn

    from sae_explorer.model.ghost import Vector
    from sae_explorer.subject import Subject

#: The two readings, in the order of the table.
LENSES = ("normalised", "raw")
SIDES = ("top", "bottom")


@dataclass(frozen=True, kw_only=True)
class LogitLensRequest(Request):
    """Which direction to read, and how many tokens of each end."""

    group: ClassVar[str] = "lens"

    feature: int | None = option(None, "Index of the SAE feature (latent).", minimum=0)
    direction: Direction | None = option(
        None, "A sum of features in place of one, such as 4021 - 0.5*17:encoder."
    )
    vector: tuple[float, ...] | None = option(
        None, "d_model numbers in place of a feature's, read as they are, not normalised."
    )
    weights: str = option(
        "decoder",
        "Which of the feature's vectors to read: what it writes (decoder) or what it looks for "
        "(encoder).",
        choices=("decoder", "encoder"),
    )
    limit: int = option(
        20, "How many tokens to return at the top, and at the bottom.", unit="tokens", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [n for n in ("feature", "direction", "vector") if getattr(self, n) is not None]
        if len(given) != 1:
            what = "none was" if not given else " and ".join(given) + " were"
            raise ExplorerError(
                f"Give one of feature, direction or vector; {what} given. For an SAE's feature: "
                "feature=17."
            )

    @property
    def uses_sae(self) -> bool:
        """Whether the answer hangs on the subject's SAE."""
        summed = self.direction is not None and bool(self.direction.features)
        return self.feature is not None or summed

    @property
    def label(self) -> str:
        """What is read, in a few words."""
        if self.direction is not None:
            return f"{self.weights} of direction {self.direction}"
        return "vector" if self.feature is None else f"{self.weights} of feature {self.feature}"


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """The tokens that a direction raises and lowers most, after the final norm and without it.

    Rows come in four blocks: the top and then the bottom tokens of the ``"normalised"`` reading,
    then those of the ``"raw"`` one, the most extreme first in each.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    lens
        ``"normalised"`` or ``"raw"``.
    side
        ``"top"`` or ``"bottom"``.
    rank
        Place within the block, from 1; int32.
    token_id
        int32. Equal logits are in order of token id.
    token
        Each token's text, a leading space included.
    logit
        float32.
    """

    kind: ClassVar[str] = "logit-lens"

    request: LogitLensRequest
    provenance: Provenance
    lens: list[str]
    side: list[str]
    rank: NDArray[np.int32]
    token_id: NDArray[np.int32]
    token: list[str]
    logit: NDArray[np.float32]

    def __post_init__(self) -> None:
        for array in (self.rank, self.token_id, self.logit):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of rows in all blocks together."""
        return len(self.token_id)

    def __repr__(self) -> str:
        first = [self.token[row] for row in range(len(self)) if self.side[row] == "top"][:5]
        return f"LogitLens({self.request.label}: {' '.join(map(visible_token, first))})"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"Logit lens of the {self.request.label}")
        table.add_column("rank", justify="right")
        for lens, side in _blocks():
            table.add_column(f"{side}, {lens}")
            table.add_column("logit", justify="right", min_width=7)
        count = len(self) // len(_blocks())
        for place in range(count):
            cells: list[str | Text] = [str(place + 1)]
            for row in range(place, len(self), count):
                # As Text, since brackets in a token are no markup.
                cells += [Text(visible_token(self.token[row])), f"{self.logit[row]:.3f}"]
            table.add_row(*cells)
        return table

    def to_frame(self) -> pd.DataFrame:
        """Return one row a token and block: ``lens, side, rank, token_id, token, logit``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "lens": self.lens,
                "side": self.side,
                "rank": self.rank,
                "token_id": self.token_id,
                "token": self.token,
                "logit": self.logit,
            }
        )

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the blocks as columns; see :meth:`Result.payload`."""
        return {
            **super().payload(subject),
            "lens": self.lens,
            "side": self.side,
            "rank": packed(self.rank),
            "token_id": packed(self.token_id),
            "logit": packed(self.logit),
            "text": self.token,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "columns": {
                "lens": self.lens,
                "side": self.side,
                "rank": column(self.rank),
                "token_id": column(self.token_id),
                "token": self.token,
                "logit": column(self.logit),
            }
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        return cls(
            request=LogitLensRequest.from_options(request),
            provenance=provenance,
            lens=columns["lens"],
            side=columns["side"],
            rank=np.asarray(columns["rank"], np.int32),
            token_id=np.asarray(columns["token_id"], np.int32),
            token=columns["token"],
            logit=np.asarray(columns["logit"], np.float32),
        )


@takes(LogitLensRequest)
def logit_lens(subject: Subject, **options: Any) -> LogitLens:
    """Read a feature's decoder vector, or another direction, through the unembedding.

    Parameters
    ----------
    subject
        The model and the SAE.

    Returns
    -------
    LogitLens
        The top and the bottom tokens, after the final norm and without it.

    Raises
    ------
    ExplorerError
        For an option out of range, a feature that the SAE has not, a vector of the wrong length,
        or a model without a final norm or an unembedding.

    Examples
    --------
    >>> logit_lens(Subject.demo(), feature=17, limit=5).to_frame()  # doctest: +SKIP
    """
    return run(subject, LogitLensRequest.from_options(options))


def run(
    subject: Subject, request: LogitLensRequest, *, progress: object = None, cancel: object = None
) -> LogitLens:
    """Answer one request; see :func:`logit_lens`."""
    del progress, cancel  # one short step: nothing to report or to stop
    found = logits(subject, request)
    lens: list[str] = []
    side: list[str] = []
    ids: list[int] = []
    values: list[float] = []
    for name, end in _blocks():
        row = found[LENSES.index(name)]
        # The whole sort costs less than reading the matrix did, and a stable one breaks ties by id.
        order = np.argsort(-row if end == "top" else row, kind="stable")[: request.limit]
        lens += [name] * len(order)
        side += [end] * len(order)
        ids += order.tolist()
        values += row[order].tolist()
    places = np.arange(len(ids), dtype=np.int32) % (len(ids) // len(_blocks())) + 1
    return LogitLens(
        request=request,
        provenance=subject.provenance(with_sae=request.uses_sae),
        lens=lens,
        side=side,
        rank=places.astype(np.int32),
        token_id=np.asarray(ids, np.int32),
        token=subject.token_texts(ids),
        logit=np.asarray(values, np.float32),
    )


def logits(subject: Subject, request: LogitLensRequest) -> NDArray[np.float32]:
    """Return the logits of the whole vocabulary, shape ``[2, vocabulary]``: normalised and raw."""
    vector = _direction(subject, request)
    if not vector.any():
        raise ExplorerError(
            f"The {request.label} is zero, so it writes towards no token. Choose another one."
        )
    head = subject.model.get_output_embeddings()
    if head is None:
        raise ExplorerError(
            f"{type(subject.model).__name__} has no unembedding; a model with a language modelling "
            "head is needed, such as AutoModelForCausalLM.from_pretrained(...) returns."
        )
    normalised = _normalised(subject, sites.final_norm(subject.model), vector)
    found = products(head.weight.detach(), [normalised, vector])
    bias = getattr(head, "bias", None)
    if bias is not None:
        found += bias.detach().float().cpu().numpy()
    if not np.isfinite(found).all():
        raise ExplorerError(
            f"The logits of the {request.label} are NaN or infinite. Load the model again, or scale "
            "the vector down."
        )
    return found


def _blocks() -> list[tuple[str, str]]:
    return [(lens, side) for lens in LENSES for side in SIDES]


def _direction(subject: Subject, request: LogitLensRequest) -> Vector:
    if request.feature is not None:
        return subject.direction(request.feature, request.weights)
    if request.direction is not None:
        parts = request.direction.parts(subject, request.weights, as_unit=False)
        total = sum((w * v.astype(np.float64) for w, v in parts), start=np.zeros(1))
        return np.asarray(total, np.float32)
    vector = np.asarray(request.vector, dtype=np.float32)
    if vector.shape != (subject.d_model,):
        raise ExplorerError(
            f"The vector has {vector.size} numbers; the model's residual stream has "
            f"{subject.d_model}."
        )
    return vector


def _normalised(subject: Subject, norm: nn.Module, vector: Vector) -> Vector:
    """Run the model's own final norm on a vector, in fp32 whatever its parameters' dtype."""
    own = {**dict(norm.named_parameters()), **dict(norm.named_buffers())}
    exact = {name: t.float() if t.is_floating_point() else t for name, t in own.items()}
    device = next((t.device for t in own.values()), subject.device)
    # The parameters are swapped for the length of this call, so nothing else may run meanwhile.
    with subject.run():
        stream = torch.tensor(vector, device=device)[None, None]
        out = torch.func.functional_call(norm, exact, (stream,))
    return np.asarray(out[0, 0].float().cpu().numpy(), dtype=np.float32)
