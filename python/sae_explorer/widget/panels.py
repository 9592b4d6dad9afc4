"""What an explorer shows: its panels with their options, its status, and who is to show it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from sae_explorer.analyses import ANALYSES
from sae_explorer.errors import ExplorerError, out_of_memory
from sae_explorer.model.ghost import SOURCES
from sae_explorer.request import Request, checked, schema
from sae_explorer.results import FORMATS, Format, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sae_explorer.subject import Subject
    from sae_explorer.widget.jobs import Job


@dataclass(frozen=True)
class Status:
    """What the explorer is doing, or has done.

    Parameters
    ----------
    state
        ``"loading"``, ``"growing"``, ``"done"``, ``"partial"`` or ``"error"``.
    text
        The same in a few words.
    progress
        0 to 1; None where it is not known how far it is.
    run
        Number of the tree's run; rows that are sent carry the same.
    nodes, covered, threshold, seconds
        Figures of the tree; see :class:`~sae_explorer.TreeProgress`. ``covered`` is the probability
        of the answers that begin with a path to a tip.
    resumable
        Whether a partial tree can be grown on.
    error
        What went wrong, in plain words, with what to do; None when all is well.
    """

    state: str = "loading"
    text: str = "starting"
    progress: float | None = None
    run: int = 0
    nodes: int = 0
    covered: float = 0.0
    threshold: float = 1.0
    seconds: float = 0.0
    resumable: bool = False
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def but(self, **changes: Any) -> Status:
        """Return the status with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class JobState:
    """How an analysis stands that runs on request.

    Parameters
    ----------
    state
        ``"idle"``, ``"running"``, ``"done"``, ``"partial"``, ``"error"``, or ``"stale"``: the
        result that is shown answers other options than are set now.
    text
        The same in a few words.
    progress
        0 to 1; None where it is not known how far it is.
    error
        What went wrong, in plain words, with what to do; None when all is well.
    """

    state: str = "idle"
    text: str = ""
    progress: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Content:
    """What there is to show at one moment, apart from what is still going on.

    Parameters
    ----------
    results
        By the name of the analysis; those that are not about the same as the tree are left out.
    status
        Of the tree.
    values
        The options that the results answer.
    label
        What they are about, such as ``"feature 302"``.
    subject
        What they were computed on, with the SAE selected; None before there is one.
    jobs
        How the analyses stand that run on request: whether their results answer the options.
    """

    results: Mapping[str, Any]
    status: Status
    values: Mapping[str, Any]
    label: str
    subject: Subject | None
    jobs: Mapping[str, JobState]


class View(Protocol):
    """Whoever shows what a session has. It is told from other threads, one at a time."""

    def show_status(self, status: Status) -> None:
        """Show how things stand."""

    def show_subject(self, subject: Subject) -> None:
        """Show the model and the SAE, which are there now."""

    def show_result(self, name: str, payload: dict[str, Any] | None) -> None:
        """Show a whole answer; None: there is none to what is asked."""

    def show_growth(self, rows: dict[str, Any] | None, status: Status) -> None:
        """Show the next rows of a tree that grows, None for no new ones, and how far it is."""

    def show_jobs(self, jobs: Mapping[str, JobState]) -> None:
        """Show how the analyses stand that run on request."""

    def show_partial(self, name: str, payload: dict[str, Any]) -> None:
        """Show what such an analysis has found so far."""


@dataclass
class Panel:
    """One analysis within a session: what is wanted of it, what it does, and what it has."""

    name: str
    request_class: type[Request]
    run: Callable[..., Result]
    #: The session's options that the request takes.
    takes: tuple[str, ...]
    wanted: Request | None = None
    job: Job | None = None
    result: Any = None
    #: The request that gave the result.
    answered: Request | None = None
    error: str | None = None

    @classmethod
    def of(cls, name: str) -> Self:
        request_class, _result, run = ANALYSES[name].load()
        names = [entry["name"] for entry in schema(request_class)]
        takes = tuple(option for option in names if option not in ANALYSES[name].own)
        return cls(name, request_class, run, takes)

    def request(self, values: Mapping[str, Any]) -> Request | None:
        """Return the question to ask with these options; None if it has none for their source."""
        source = next((name for name in SOURCES if values[name] is not None), "feature")
        if source not in self.takes:
            return None
        return self.request_class.from_options({name: values[name] for name in self.takes})

    def drop_job(self) -> None:
        """Let go of what the panel does; what that still tells is not heard."""
        if self.job is not None:
            self.job.cancelled.set()
            self.job = None


#: The request class that declares an option of a session, by the option's name: the first that has
#: it, where several do.
_DECLARING = {
    name: panel.request_class
    for panel in reversed([Panel.of(name) for name in ANALYSES])
    for name in panel.takes
}

#: What is known of every option that a session has, by name.
OPTIONS = {
    entry["name"]: entry
    for declaring in dict.fromkeys(ANALYSES[name].load()[0] for name in ANALYSES)
    for entry in schema(declaring)
    if _DECLARING.get(entry["name"]) is declaring
}


def checked_alone(name: str, value: Any) -> Any:
    """Return the value of an option as requests hold it, whatever the other options are.

    Raises
    ------
    ExplorerError
        If it has the wrong type or is out of range.
    """
    return checked(_DECLARING[name], name, value)


#: What the options are where nobody sets them, as requests hold them.
DEFAULTS = {name: checked_alone(name, entry["default"]) for name, entry in OPTIONS.items()}


def files_of(results: Mapping[str, Result]) -> dict[str, tuple[Result, Format]]:
    """Return the files that results can be written to, by name."""
    return {
        f"{name}.{form.suffix}": (result, form)
        for name, result in results.items()
        for form in FORMATS.values()
        if hasattr(result, form.method)
    }


def in_words(error: BaseException) -> str:
    """Return what to tell a reader of an error."""
    if isinstance(error, ExplorerError):
        return str(error)
    if out_of_memory(error):
        return (
            "Out of memory. Free other models, load this one in a smaller dtype, or ask for less: a "
            "smaller max_depth or max_nodes."
        )
    return (
        f"{type(error).__name__}: {error}. This is a fault in sae-explorer or in a library it uses; "
        "what was shown before is kept. Try again, and report it if it stays."
    )
