"""The analyses of an explorer that run when they are asked for, each in a panel of its own.

They run on the model's worker, one step of its round each: a tree that is asked for meanwhile comes
after them. What goes wrong in one is said in its own panel, never as the state of the tree.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sae_explorer.analyses import ANALYSES
from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.model.ghost import SOURCES
from sae_explorer.widget.jobs import Cancelled, Job, Worker
from sae_explorer.widget.panels import JobState, Panel

if TYPE_CHECKING:
    import threading
    from collections.abc import Container, Iterator, Mapping

    from sae_explorer.analyses import Progress
    from sae_explorer.request import Request
    from sae_explorer.results import Result
    from sae_explorer.subject import Subject
    from sae_explorer.widget.panels import View

#: Least time between two messages about a run, in seconds.
_INTERVAL = 0.2
#: Options of a request that change nothing in its answer but what is marked in it, if that: a click on
#: a point of the sweep sets the scale.
_MARKED_ONLY = {"scales": ("scale",), "loop": ("lift", "lift_seed")}
#: Share of the time that may go into telling what was found so far.
_TELLING = 0.2


class Surroundings(Protocol):
    """What the runs need of the session that they belong to."""

    lock: threading.RLock
    view: View
    subject: Subject | None
    values: dict[str, Any]
    panels: dict[str, Panel]

    @property
    def loading(self) -> bool:
        """Whether a model or an SAE is being loaded, which the runs wait for."""

    def check_open(self) -> None:
        """Raise an error if the session was closed."""

    def hurry(self) -> None:
        """Begin at once with a tree that waits for more changes."""

    def settle(self) -> None:
        """Tell how things stand."""

    def in_words(self, error: BaseException) -> str:
        """Return what to tell a reader of what a run failed with."""


@dataclass
class _Requested(Panel):
    """A panel whose analysis runs on request; ``wanted`` is what it was asked last."""

    #: Whether it is to run as soon as there is a model.
    awaited: bool = False
    #: How far it is, and what it has found so far.
    text: str = ""
    progress: float | None = None
    told: dict[str, Any] | None = None
    #: Whether its run has begun, so that there may be something to keep.
    begun: bool = False
    #: The tree that the result is about, where it was given one.
    tree: Any = None
    #: What the last run failed with, until somebody has read it.
    failure: str | None = None

    def drop_job(self) -> None:
        super().drop_job()
        self.told, self.awaited, self.begun = None, False, False


class Requested:
    """The panels of the analyses that run on request. All methods return at once.

    Parameters
    ----------
    session
        Whose model they run on, with whose options.
    """

    def __init__(self, session: Surroundings) -> None:
        self._session = session
        self._panels: dict[str, _Requested] = {
            name: _Requested.of(name) for name, analysis in ANALYSES.items() if analysis.on_request
        }

    # ---- what may be asked of it

    def run(self, name: str) -> None:
        """Run an analysis with the options that are set; a run with others is broken off.

        Raises
        ------
        ExplorerError
            If there is no such analysis, or the options make no request of it.
        """
        panel = self._named(name)
        with self._session.lock:
            self._session.check_open()
            wanted = self._request(panel)
            job = panel.job
            if job is not None and wanted == panel.wanted and not job.cancelled.is_set():
                return
            if job is not None:
                panel.drop_job()
                self.tell()  # that one has ended, with all that it had found
            panel.wanted, panel.error, panel.failure = wanted, None, None
            if self._session.subject is None or self._session.loading:
                panel.awaited = True
            else:
                self._submit(panel, wanted)
            self.tell()

    def start(self, name: str) -> None:
        """Do the same, but say in the panel what speaks against it: it was asked for there."""
        panel = self._named(name)
        try:
            self.run(name)
        except ExplorerError as error:
            with self._session.lock:
                self._session.check_open()
                panel.drop_job()
                panel.wanted, panel.error = None, str(error)
                self.tell()

    def cancel(self, name: str | None = None) -> None:
        """Stop a run, or all; what it has found stays, marked partial.

        Raises
        ------
        ExplorerError
            If there is no such analysis.
        """
        panels = self._panels.values() if name is None else (self._named(name),)
        with self._session.lock:
            for panel in panels:
                if panel.job is not None and panel.begun:
                    panel.job.cancelled.set()
                    panel.text = "stopping"
                else:
                    panel.drop_job()
            self.tell()

    def begin(self) -> None:
        """Run what was asked for while something was loading."""
        for panel in self._panels.values():
            if not panel.awaited:
                continue
            try:
                wanted = panel.wanted or self._request(panel)
            except ExplorerError as error:
                panel.drop_job()
                self._break(panel, None, str(error))
            else:
                self._submit(panel, wanted)
        self.tell()

    def forget(self) -> None:
        """Let go of all runs and results, but for what is still to begin."""
        for panel in self._panels.values():
            awaited = panel.awaited
            panel.drop_job()
            panel.awaited = awaited
            panel.result = panel.error = panel.answered = panel.tree = panel.failure = None
            self._session.view.show_result(panel.name, None)

    def close(self) -> None:
        """Let go of everything; nobody is told any more."""
        for panel in self._panels.values():
            panel.drop_job()
            panel.result = panel.answered = panel.tree = None

    def tell(self) -> None:
        """Tell how the analyses stand: also what has become stale by a change of the options."""
        for panel in self._panels.values():
            # An error is about the options of then.
            if panel.error is not None and self._current(panel) != panel.wanted:
                panel.error = None
        self._session.view.show_jobs(self.states)

    def repeat(self) -> None:
        """Show again what the runs have found so far."""
        for panel in self._panels.values():
            if panel.told is not None:
                self._session.view.show_partial(panel.name, panel.told)

    def failure(self) -> str | None:
        """Return, once, what the last run of an analysis failed with since this was asked before."""
        failures = [panel.failure for panel in self._panels.values()]
        for panel in self._panels.values():
            panel.failure = None
        return next((failure for failure in failures if failure is not None), None)

    # ---- what there is

    @property
    def names(self) -> tuple[str, ...]:
        """The analyses that can be run."""
        return tuple(self._panels)

    @property
    def busy(self) -> bool:
        """Whether a run is under way, or is to begin when something is loaded."""
        return any(self._is_going(panel) for panel in self._panels.values())

    @property
    def panels(self) -> dict[str, Panel]:
        """The panels that have a result, by name."""
        return {n: panel for n, panel in self._panels.items() if panel.result is not None}

    def result(self, name: str) -> Any:
        """Return the result that a panel shows; None where it has none."""
        return self._panels[name].result

    @property
    def states(self) -> dict[str, JobState]:
        """How each analysis stands."""
        return {name: self._state(panel) for name, panel in self._panels.items()}

    def standing(self, names: Container[str], values: Mapping[str, Any]) -> dict[str, JobState]:
        """Return how results stand to some options, without what goes on or went wrong.

        Parameters
        ----------
        names
            Of the analyses whose results there are.
        values
            The options.
        """
        return {
            name: self._of_result(panel, values) if name in names else JobState()
            for name, panel in self._panels.items()
        }

    # ---- running

    def _named(self, name: str) -> _Requested:
        if name not in self._panels:
            raise ExplorerError(
                f"There is no analysis {name!r} to run.{did_you_mean(name, self._panels)} Possible: "
                f"{', '.join(self._panels)}; the tree and the tables are always up to date."
            )
        return self._panels[name]

    def _request(self, panel: _Requested) -> Request:
        """Return what a panel is asked by the options that are set."""
        values = self._session.values
        wanted = panel.request(values)
        if wanted is None:
            source = next(name for name in SOURCES if values[name] is not None)
            possible = " or ".join(name for name in SOURCES if name in panel.takes)
            raise ExplorerError(
                f"{panel.name.capitalize()} is not possible for {source}=; set {possible} instead."
            )
        return wanted

    def _current(self, panel: _Requested) -> Request | None:
        """Return the same, or None where the options make no request."""
        try:
            return panel.request(self._session.values)
        except ExplorerError:
            return None

    def _submit(self, panel: _Requested, wanted: Request) -> None:
        session = self._session
        subject = session.subject
        assert subject is not None  # there is nothing to ask before
        panel.wanted, panel.awaited, panel.begun = wanted, False, False
        panel.text, panel.progress = "waiting for the model", None
        uses_tree = ANALYSES[panel.name].uses_tree
        tree = session.panels["tree"].request(session.values) if uses_tree else None
        if tree is not None:
            session.hurry()  # it comes first
        panel.job = Job(
            lambda job: self._steps(panel, job, subject, tree),
            lambda job, error: self._fail(panel, job, error),
        )
        Worker.of(subject.model).submit(panel.job)

    def _steps(
        self, panel: _Requested, job: Job, subject: Subject, wanted_tree: Request | None
    ) -> Iterator[None]:
        """Run an analysis as one step, once the tree that it is about has grown."""
        shown = self._session.panels["tree"]
        while panel.job is job and shown.job is not None and shown.wanted == wanted_tree:
            yield
        with self._session.lock:
            if panel.job is not job:
                return
            given = {}
            if wanted_tree is not None:
                given["tree"] = shown.result if shown.answered == wanted_tree else None
            wanted, panel.begun, panel.text = panel.wanted, True, "running"
            self.tell()
        progress = partial(self._show_progress, panel, job, subject, _Pace())
        result = panel.run(subject, wanted, progress=progress, cancel=job.cancelled, **given)
        payload = result.payload(subject)
        with self._session.lock:
            if panel.job is job and self._is_worth_less(panel, job):
                panel.drop_job()
                self._session.settle()
            elif panel.job is job:
                panel.drop_job()
                panel.result, panel.answered, panel.tree = result, wanted, given.get("tree")
                # In this order: what is found so far is shown only while it runs.
                self._session.view.show_result(panel.name, payload)
                self._session.settle()
        yield

    @staticmethod
    def _is_worth_less(panel: _Requested, job: Job) -> bool:
        """Return whether a run was stopped before it had anything to show in place of the last."""
        return job.cancelled.is_set() and panel.told is None and panel.result is not None

    def _show_progress(
        self, panel: _Requested, job: Job, subject: Subject, pace: _Pace, progress: Progress
    ) -> None:
        """Tell how far a run is and what it has found, as often as it may be told."""
        if panel.job is not job or not pace.is_due():
            return
        found: Result | None = progress.snapshot()
        payload = None if found is None else found.payload(subject)
        with self._session.lock:
            if panel.job is not job:
                return
            panel.progress = progress.share
            stopping = job.cancelled.is_set()
            if not stopping:
                panel.text = progress.text
            self.tell()
            if payload is not None and not stopping:
                panel.told = payload
                self._session.view.show_partial(panel.name, payload)
        pace.told()

    def _fail(self, panel: _Requested, job: Job, error: BaseException) -> None:
        with self._session.lock:
            if panel.job is not job:
                return
            panel.drop_job()
            if not isinstance(error, Cancelled):
                self._break(panel, panel.wanted, self._session.in_words(error))
            self._session.settle()

    def _break(self, panel: _Requested, wanted: Request | None, error: str) -> None:
        panel.wanted, panel.error = wanted, error
        panel.failure = error

    # ---- telling

    def _is_going(self, panel: _Requested) -> bool:
        return panel.job is not None or (panel.awaited and self._session.loading)

    def _state(self, panel: _Requested) -> JobState:
        if panel.job is not None:
            return JobState("running", panel.text, panel.progress)
        if self._is_going(panel):
            return JobState("running", "waiting for the model")
        if panel.error is not None:
            return JobState("error", "not computed", error=panel.error)
        return self._of_result(panel, self._session.values)

    def _of_result(self, panel: _Requested, values: Mapping[str, Any]) -> JobState:
        if panel.result is None:
            return JobState()
        if self._is_stale(panel, values):
            return JobState("stale", "from before the last change", 1.0)
        if panel.result.status == "partial":
            return JobState("partial", "stopped before it was complete", 1.0)
        return JobState("done", "done", 1.0)

    def _is_stale(self, panel: _Requested, values: Mapping[str, Any]) -> bool:
        marked = {n: getattr(panel.answered, n) for n in _MARKED_ONLY.get(panel.name, ())}
        try:
            current = panel.request({**values, **marked})
        except ExplorerError:
            current = None
        # A partial tree that has grown on answers the same request with more rows.
        shown = self._session.panels["tree"].result
        has_grown = (
            panel.tree is not None
            and shown is not None
            and shown.request == panel.tree.request
            and (len(shown), shown.status) != (len(panel.tree), panel.tree.status)
        )
        return current != panel.answered or has_grown


class _Pace:
    """How often something may be told."""

    def __init__(self) -> None:
        self._next = self._began = 0.0

    def is_due(self) -> bool:
        """Return whether it is time to tell something; then the telling begins."""
        self._began = time.perf_counter()
        return self._began >= self._next

    def told(self) -> None:
        """Take note that something was told since."""
        now = time.perf_counter()
        self._next = now + max(_INTERVAL, (now - self._began) / _TELLING)
