"""What an explorer works on: it loads the subject, and keeps every panel's answer up to date.

It knows nothing of notebooks: what there is to show goes to a :class:`View`.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses import ANALYSES
from sae_explorer.analyses import trees as tree_analysis
from sae_explorer.errors import ExplorerError, did_you_mean, out_of_memory
from sae_explorer.loading import registry
from sae_explorer.model.direction import Direction
from sae_explorer.model.ghost import SOURCES
from sae_explorer.subject import Subject
from sae_explorer.widget.jobs import Cancelled, Job, Worker
from sae_explorer.widget.panels import (
    DEFAULTS,
    OPTIONS,
    Content,
    Panel,
    Status,
    checked_alone,
    files_of,
    in_words,
)
from sae_explorer.widget.requested import Requested

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sae_explorer.analyses.definition_tree import DefinitionTree
    from sae_explorer.loading.downloads import Tell
    from sae_explorer.loading.registry import Entry
    from sae_explorer.request import Request
    from sae_explorer.results import Format, Result
    from sae_explorer.studied_sae import StudiedSAE
    from sae_explorer.widget.panels import View

#: Pause after a change before the tree is grown anew, in seconds: a slider changes often.
_PAUSE = 0.25
#: Least time between two messages of a stream, in seconds.
_INTERVAL = 0.1
#: Share of the time that may go into telling what has grown.
_TELLING = 0.2
#: Largest number of rows that are sent though rows found later may come before them.
_UNSETTLED = 2000
#: SAEs loaded on the way from one to another that stay in memory: each may take gigabytes.
_IN_PASSING = 3
_OUT_OF_MEMORY = (
    "Out of memory: the tree is partial. Raise the cutoff, lower the node budget, free other models "
    "or load this one in a smaller dtype."
)


class Session:
    """The work behind an explorer. All methods return at once; the worker does the rest.

    Parameters
    ----------
    load
        Gives the subject; it is called on a thread of its own.
    add
        Gives the same subject with one more SAE of the registry, selected; likewise.
    given
        Options to begin with.
    view
        Where to show what there is.
    """

    def __init__(
        self,
        load: Callable[[Tell], Subject],
        add: Callable[[Subject, Entry, Tell], Subject],
        given: Mapping[str, Any],
        view: View,
    ) -> None:
        self.lock = threading.RLock()
        self._load = load
        self._add = add
        self.view = view
        self._closed = False
        #: Loads one thing after the other. A thread of its own: the model's is for its runs.
        self._loads = Worker()
        self._loading: Job | None = None
        #: What is loaded or was loaded last: an SAE of the registry, or None for the subject.
        self._entry: Entry | None = None
        #: The job that loads it, also after it was cancelled: it stops when it next tells something.
        self._loader: Job | None = None
        #: What the loading told last, and what it failed with.
        self._told_loading: tuple[str, float | None] = ("loading", None)
        self._loading_error: str | None = None
        self.subject: Subject | None = None
        #: The weights of its model when it was taken, as :func:`_weights` lists them.
        self._weights: dict[str, tuple[object, ...]] = {}
        #: The SAEs that were loaded since, the last one last.
        self._passing: list[StudiedSAE] = []
        #: The panels that are always kept up to date.
        self.panels = {
            name: Panel.of(name) for name, analysis in ANALYSES.items() if not analysis.on_request
        }
        #: Those that run when they are asked to.
        self.requested = Requested(self)
        self._pause: threading.Timer | None = None
        #: Whether a tree's growth is under way in the worker, be it one that nobody waits for.
        self._occupied = False
        #: What grew the last tree or is growing it, for what, and the seconds that it took by now.
        self._grower: tree_analysis.TreeGrower | None = None
        self._grown: tuple[Subject, tree_analysis.TreeRequest] | None = None
        self._seconds = 0.0
        self._runs = 0
        #: The run of the rows that were shown last.
        self._streamed = 0
        #: The tree that is growing, as it was last told, and how many of its rows are settled.
        self._told: tuple[DefinitionTree, int] | None = None
        self.status = Status()
        #: The status of the tree that is shown, whatever comes after it.
        self._kept = Status()
        self.values: dict[str, Any] = dict(DEFAULTS)
        source = {} if any(given.get(name) is not None for name in SOURCES) else {"feature": 0}
        self.values |= self.checked({**given, **source})
        self._initial = dict(self.values)

    # ---- what may be asked of it

    def checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes as the requests hold them.

        Raises
        ------
        ExplorerError
            If an option is unknown, out of range, or not possible with the subject.
        """
        for name in changes:
            if name not in OPTIONS:
                raise ExplorerError(
                    f"There is no option {name!r}.{did_you_mean(name, OPTIONS)} Possible: "
                    f"{', '.join(OPTIONS)}."
                )
        changed = dict(changes)
        if isinstance(changed.get("feature"), Direction) and changed.get("direction") is None:
            # A sum of features may stand wherever a feature does.
            changed["direction"] = changed.pop("feature")
        if any(changed.get(name) is not None for name in SOURCES):
            changed = {**dict.fromkeys(SOURCES), **changed}
        values = {**self.values, **changed}
        requests = {name: panel.request(values) for name, panel in self.panels.items()}
        for name, value in changed.items():
            takers = (
                r for n, r in requests.items() if r is not None and name in self.panels[n].takes
            )
            taker = next(takers, None)
            # Whether the options of a run go together is said when it is asked for.
            changed[name] = checked_alone(name, value) if taker is None else getattr(taker, name)
        tree = requests["tree"]
        if self.subject is not None and isinstance(tree, tree_analysis.TreeRequest):
            try:
                tree_analysis.check(self.subject, tree)
            except ExplorerError:
                raise
            except Exception as error:  # a model that was freed or changed meanwhile
                raise ExplorerError(self.in_words(error)) from error
        return changed

    def change(self, accepted: Mapping[str, Any]) -> None:
        """Take changes that were checked, and bring the answers up to date."""
        with self.lock:
            self.check_open()
            self.values |= accepted
            if self._loading_error is not None and self.subject is not None:
                # Whoever goes on with the SAE of before has read it.
                self._loading_error = None
                self.settle()
            self._bring_up_to_date()
            self.requested.tell()

    def select(
        self, layer: int | None = None, sae_id: str | None = None, release: str | None = None
    ) -> None:
        """Look at another SAE: at once where the subject holds it, else once it is loaded.

        Until then everything stays as it is; :meth:`cancel` leaves it so.

        Raises
        ------
        ExplorerError
            If it is not clear which SAE is meant, or there is no model yet.
        """
        with self.lock:
            self.check_open()
            if self.subject is None:
                raise ExplorerError(
                    "There is no model yet whose SAE could be chosen. Wait for it, as in "
                    "explorer.wait(), or make an explorer with the layer you want."
                )
            chosen = _choose(self.subject, layer, sae_id, release)
            if not isinstance(chosen, Subject):
                self._start_loading(chosen)
            elif chosen.sae is not self.subject.sae:
                self._take(chosen)
            else:
                self._end_loading(None)

    def initial(self) -> dict[str, Any]:
        """Return the options that the session was made with, but for what it looks at."""
        return {name: self._initial[name] for name in OPTIONS if name not in SOURCES}

    def cancel(self) -> None:
        """Stop the loading or the tree within one step; what has grown stays, marked partial."""
        with self.lock:
            tree = self.panels["tree"]
            if self._loading is not None:
                cancelled = "Loading was cancelled. Try again." if self.subject is None else None
                self._end_loading(cancelled)
            elif self._pause is not None:
                self._stop_pause()
                self._stay()
            elif tree.job is not None:
                tree.job.cancelled.set()

    def resume(self) -> None:
        """Grow on the tree that was stopped, or begin the one that was not let begin."""
        with self.lock:
            if not self.status.resumable:
                raise ExplorerError("There is no partial tree to grow on.")
            self.panels["tree"].error = self._loading_error = None
            self._grow_after(0.0)

    def start(self) -> None:
        """Load the subject, or, where it is there, compute again what failed or was stopped."""
        with self.lock:
            self.check_open()
            if self.subject is None or self._loading_error is not None:
                if self._loading is None:
                    self._start_loading(self._entry)
                return
            self.checked({})
            if self.panels["tree"].job is None:
                self.panels["tree"].wanted = None
            self._bring_up_to_date(pause=0.0)

    def hurry(self) -> None:
        """Begin at once what waits for the pause to be over."""
        with self.lock:
            if self._pause is not None:
                self._stop_pause()
                self._submit(self.panels["tree"], self._grow)

    def close(self) -> None:
        """Stop everything, and let go of the model and of the results."""
        with self.lock:
            self._closed = True
            self._stop_pause()
            self._loading = self._grower = self._grown = self._told = self.subject = None
            for panel in self.panels.values():
                panel.drop_job()
                panel.result = panel.answered = None
            self.requested.close()

    def check_open(self) -> None:
        """Raise an :class:`ExplorerError` if the session was closed."""
        if self._closed:
            raise ExplorerError("The explorer was closed. Make a new one.")

    def content(self) -> Content:
        """Return what there is to show by now; it holds together whatever goes on meanwhile."""
        with self.lock:
            tree = self.panels["tree"]
            answered = list(self._answered.values())
            # The tree, where there is one, says what the others are to be about.
            about = tree if tree.result is not None else next(iter(answered), None)
            request = about.result.request if about is not None else tree.request(self.values)
            if about is tree:
                answered = [p for p in answered if _same_source(p.result.request, request)]
            found = {panel.name: panel.result for panel in answered}
            values = dict(self.values)
            standing = self.requested.standing(found, values)
            stale = {name for name, job in standing.items() if job.state == "stale"}
            # Where two were asked for different things, the one of before a change gives way.
            by_age = sorted(answered, key=lambda panel: panel.name in stale)
            for panel in reversed(by_age):
                asked = panel.answered
                values |= {option: getattr(asked, option) for option in panel.takes}
            status = self._kept
            if tree.result is None:
                status = Status("partial", "there was no tree yet")
            elif tree.job is not None or self._pause is not None or tree.error is not None:
                status = status.but(text="the tree before the last change", resumable=False)
            # Errors may name files of this machine, and are about what is not shown.
            return Content(
                found,
                status.but(error=None),
                values,
                str(getattr(request, "label", "")),
                self.subject,
                self.requested.standing(found, values),
            )

    def repeat(self, known: object) -> None:
        """Show again how things stand, and the rows of a growing tree unless its run is known."""
        with self.lock:
            self.view.show_growth(None, self.status)
            if known != self._runs:
                self.repeat_growth()
            self.requested.repeat()

    @property
    def busy(self) -> bool:
        """Whether something that was asked for is still to come."""
        with self.lock:
            working = any(panel.job is not None for panel in self.panels.values())
            waiting = self.loading or self._pause is not None
            return working or waiting or self.requested.busy

    @property
    def loading(self) -> bool:
        """Whether a model or an SAE is being loaded."""
        return self._loading is not None

    @property
    def doing(self) -> str:
        """What is going on, in a few words."""
        running = [name for name, job in self.requested.states.items() if job.state == "running"]
        if running and self.status.state not in ("loading", "growing"):
            return f"running {', '.join(running)}"
        return self.status.text

    def result(self, name: str) -> Any:
        """Return what is shown of an analysis; None where there is nothing yet."""
        panel = self.panels.get(name)
        return self.requested.result(name) if panel is None else panel.result

    @property
    def exports(self) -> dict[str, tuple[Result, Format]]:
        """The files that the results can be written to, by name."""
        return files_of({name: panel.result for name, panel in self._answered.items()})

    @property
    def _answered(self) -> dict[str, Panel]:
        """The panels that have a result, in the order of the analyses."""
        standing = {n: panel for n, panel in self.panels.items() if panel.result is not None}
        return standing | self.requested.panels

    def repeat_growth(self, first: int = 0, run: int | None = None) -> None:
        """Show again what was told of the tree that is growing, from a row on.

        Parameters
        ----------
        first
            The row.
        run
            Number of the run that is meant; nothing is shown when it is over.
        """
        with self.lock:
            if self._told is not None and run in (None, self._runs):
                tree, settled = self._told
                self._show_rows(tree, min(max(first, 0), settled), settled)

    # ---- loading

    def _start_loading(self, entry: Entry | None) -> None:
        """Load an SAE of the registry; None: the subject."""
        # What runs is wanted again, where it is the same: two at once would load it twice.
        if self._loader is None or entry != self._entry:
            self._loader = Job(
                lambda job: self._load_steps(job, entry, self.subject), self._fail_loading
            )
            self._loads.submit(self._loader)
        self._entry, self._loading = entry, self._loader
        self._told_loading, self._loading_error = ("loading", None), None
        self._tell(self.status)

    def _load_steps(self, job: Job, entry: Entry | None, before: Subject | None) -> Iterator[None]:
        def tell(text: str, progress: float | None) -> None:
            with self.lock:
                if self._loading is not job:
                    raise Cancelled
                self._told_loading = (text, progress)
                self._tell(self.status)

        if entry is None:
            subject = self._load(tell)
            tell("measuring the token embeddings", None)
            subject.geometry.mean_distance  # noqa: B018 - the default scale, for the first view
        else:
            assert before is not None  # what the SAE is added to
            tell(f"loading {entry.sae_id}", None)
            subject = self._lightened(self._add(before, entry, tell))
        with self.lock:
            if self._loading is job:
                self._take(subject)
            self._forget(job)
        yield

    def _lightened(self, subject: Subject) -> Subject:
        """Return the subject without the SAEs that were loaded in passing, but for the last ones."""
        self._passing = [*self._passing, subject.sae]
        for studied in self._passing[:-_IN_PASSING]:
            subject = subject.without_sae(studied)
        self._passing = self._passing[-_IN_PASSING:]
        return subject

    def _fail_loading(self, job: Job, error: BaseException) -> None:
        with self.lock:
            self._forget(job)
            if self._loading is not job:
                return
            if isinstance(error, Cancelled):
                self._start_loading(self._entry)  # wanted again, but it had stopped already
            else:
                self._end_loading(in_words(error))

    def _forget(self, job: Job) -> None:
        if self._loader is job:
            self._loader = None

    def _end_loading(self, error: str | None) -> None:
        """Go on with what was there before; nothing to do where nothing is loaded or was missed."""
        if self._loading is None and self._loading_error is None:
            return
        self._loading, self._loading_error = None, error
        if error is None and self.subject is not None:
            self.requested.begin()
        else:
            self.requested.cancel()
        self.status = self.status.but(state="growing", text="growing", progress=None)
        self.settle()

    def _take(self, subject: Subject) -> None:
        """Look at a subject that is there now, and compute everything anew."""
        self._stop_pause()
        # Nothing of another SAE may stand under the name of this one, however its own ends.
        for panel in self.panels.values():
            panel.drop_job()
            panel.wanted = panel.error = panel.result = panel.answered = None
            self.view.show_result(panel.name, None)
        self.requested.forget()
        self._told, self._kept = None, Status(run=self._runs)
        self.view.show_subject(subject)
        self.subject, self._loading, self._loading_error = subject, None, None
        self._weights = _weights(subject)
        try:
            self.checked({})
        except ExplorerError as error:
            self.panels["tree"].error = str(error)
            self.settle()
        else:
            self._bring_up_to_date(pause=0.0)
        self.requested.begin()

    # ---- computing

    def _bring_up_to_date(self, pause: float = _PAUSE) -> None:
        """Ask for everything whose request has changed: the tree after a pause, the rest at once."""
        if self.subject is None:
            return
        for panel in self.panels.values():
            wanted = panel.request(self.values)
            if wanted == panel.wanted and panel.error is None:
                continue
            panel.wanted, panel.error = wanted, None
            panel.drop_job()
            if wanted is None:
                panel.result = panel.answered = None
                self.view.show_result(panel.name, None)
            elif panel.name == "tree":
                self._grow_after(pause)
            else:
                self._submit(panel, self._answer)

    def _submit(self, panel: Panel, steps: Callable[[Panel, Job], Iterator[None]]) -> None:
        assert self.subject is not None  # there is nothing to ask before
        panel.job = Job(
            lambda job: steps(panel, job), lambda job, error: self._fail(panel, job, error)
        )
        Worker.of(self.subject.model).submit(panel.job)

    def _answer(self, panel: Panel, job: Job) -> Iterator[None]:
        """Run an analysis that takes one short step."""
        subject, wanted = self.subject, panel.wanted
        if panel.job is not job:
            return
        result = panel.run(subject, wanted, cancel=job.cancelled)
        payload = result.payload(subject)
        with self.lock:
            if panel.job is job:
                panel.job, panel.result, panel.answered = None, result, wanted
                self.view.show_result(panel.name, payload)
                self.settle()
        yield

    def _grow_after(self, pause: float) -> None:
        """Grow the tree that is wanted, after a pause in which more changes may come."""
        self._stop_pause()
        # What is shown stays on the screen, with its figures, until there is more to show.
        self._tell(
            self._kept.but(
                state="growing", text="growing", progress=None, resumable=False, error=None
            )
        )
        if pause:
            self._pause = threading.Timer(pause, self.hurry)
            self._pause.daemon = True
            self._pause.start()
        else:
            self._submit(self.panels["tree"], self._grow)

    def _stop_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _grow(self, panel: Panel, job: Job) -> Iterator[None]:
        """Grow the tree that is wanted; on from the last one, where no more than the cutoff fell."""
        if panel.job is not job:
            return
        # One that is not wanted any more first ends: it still holds the model's memory.
        while self._occupied:
            yield
        if panel.job is not job:
            return
        self._occupied = True
        try:
            yield from self._follow(panel, job, self._prepared(panel))
        finally:
            self._occupied = False

    def _prepared(self, panel: Panel) -> tree_analysis.TreeGrower:
        """Return what grows the tree that is wanted: what grew the last one, or another."""
        subject, wanted, grower = self.subject, panel.wanted, self._grower
        assert subject is not None
        assert isinstance(wanted, tree_analysis.TreeRequest)
        on, grown = self._grown or (None, None)
        if grower is not None and grown and on is subject and _goes_on(grown, wanted):
            (last,) = grower.trees()
            self._told = (last, _settled(last, grower))
            if wanted != grown:
                grower.lower(wanted.cutoff)
        else:
            grower = self._grower = None  # its memory first: the next tree needs it
            grower = tree_analysis.TreeGrower(subject, [wanted], keep=True)
            self._runs += 1
            self._told, self._seconds = None, 0.0
        self._grower, self._grown = grower, (subject, wanted)
        return grower

    def _follow(self, panel: Panel, job: Job, grower: tree_analysis.TreeGrower) -> Iterator[None]:
        """Let a tree grow, and tell about ten times a second what there is."""
        steps = grower.steps(job.cancelled)
        next_time = 0.0
        error = None
        while True:
            began = time.perf_counter()
            try:
                going_on = next(steps, _END) is not _END
            except (RuntimeError, MemoryError, OSError) as stopped:
                if not out_of_memory(stopped):
                    raise
                if grower.progress().nodes <= 1:
                    raise ExplorerError(tree_analysis.TOO_LITTLE_MEMORY) from stopped
                going_on, error = False, _OUT_OF_MEMORY
            now = time.perf_counter()
            self._seconds += now - began
            if not going_on:
                break
            if now >= next_time:
                self._tell_growth(panel, job, grower)
                telling = time.perf_counter() - now
                next_time = now + max(_INTERVAL, telling / _TELLING)
            yield
        if panel.job is not job:
            return
        (tree,) = grower.trees()
        with self.lock:
            if panel.job is not job:
                return
            if len(tree) == 1 and tree.partial and panel.result is not None:
                panel.job = None
                self._stay()
            else:
                self._keep(panel, tree, error)

    def _tell_growth(self, panel: Panel, job: Job, grower: tree_analysis.TreeGrower) -> None:
        """Send the rows found by now, from the first that was not settled the last time."""
        (tree,) = grower.trees()
        threshold = grower.progress().threshold
        with self.lock:
            if panel.job is not job:
                return
            first = self._told[1] if self._told is not None else 0
            settled = max(first, _settled(tree, grower))
            self._told = (tree, settled)
            measured = grower.lift_share
            self.status = self._with_loading(
                self._figures(tree).but(
                    state="growing",
                    text="growing" if measured is None else "measuring lift",
                    progress=(
                        _share(threshold, tree.request.cutoff) if measured is None else measured
                    ),
                    threshold=threshold,
                    error=self._first_error(),
                )
            )
            self._show_rows(tree, first, settled)

    def _show_rows(self, tree: DefinitionTree, first: int, settled: int) -> None:
        stop = min(len(tree), settled + _UNSETTLED)
        rows = {**tree.payload(first=first, stop=stop), "run": self._runs, "settled": settled}
        self._streamed = self._runs
        self.view.show_growth(rows, self.status)

    def _stay(self) -> None:
        """Stay with the tree of before: growth was stopped before there was another."""
        self._kept = self._kept.but(
            state="partial", text="stopped before it began", resumable=True, error=None
        )
        self._show_again()
        self.settle()

    def _show_again(self) -> None:
        """Show the tree that is kept, where rows of one that came to nothing stand in its place."""
        tree = self.panels["tree"].result
        self._told = None
        if tree is not None and self._streamed != self._kept.run:
            self._streamed = self._kept.run
            rows = {**tree.payload(), "run": self._kept.run, "settled": len(tree)}
            self.view.show_growth(rows, self._kept)

    def _keep(self, panel: Panel, tree: DefinitionTree, error: str | None) -> None:
        """Show a tree that has grown, or was stopped."""
        state, text = {
            "complete": ("done", "done"),
            "budget": ("done", f"stopped at its budget of {len(tree):,} nodes"),
            "partial": ("partial", "stopped before it was complete"),
        }[tree.status]
        self._kept = self._figures(tree).but(
            state=state, text=text, progress=1.0, resumable=tree.partial, error=error
        )
        self._streamed = self._runs
        rows = {**tree.payload(), "run": self._runs, "settled": _settled(tree, self._grower)}
        self.view.show_result("tree", rows)
        panel.job, panel.result, panel.answered, self._told = None, tree, panel.wanted, None
        self.settle()

    def _figures(self, tree: DefinitionTree) -> Status:
        return Status(
            run=self._runs,
            nodes=len(tree),
            covered=tree.covered_probability,
            threshold=tree.request.cutoff,
            seconds=self._seconds,
        )

    def _fail(self, panel: Panel, job: Job, error: BaseException) -> None:
        with self.lock:
            if panel.job is job or not job.cancelled.is_set():
                panel.job, panel.error = None, self.in_words(error)
                if panel.name == "tree":
                    self._grower = None  # it may have broken off in the middle of a step
                    self._show_again()
                self.settle()

    def in_words(self, error: BaseException) -> str:
        """Return what to tell a reader of what a run failed with."""
        if isinstance(error, ExplorerError) or self.subject is None:
            return in_words(error)
        now = _weights(self.subject)
        names = sorted(
            name for name in self._weights | now if now.get(name) != self._weights.get(name)
        )
        if not names or out_of_memory(error):
            return in_words(error)
        which = names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
        return (
            f"The model was changed under the explorer ({which}) and cannot be run as it is now: "
            f"{error}. Put it back and try again, or make a new explorer; what was shown is kept."
        )

    def _first_error(self) -> str | None:
        errors = (self._loading_error, *(panel.error for panel in self.panels.values()))
        return next((error for error in errors if error is not None), None)

    def settle(self) -> None:
        """Tell how things stand after a panel's work or a loading has ended, well or not."""
        self.requested.tell()
        error = self._first_error()
        tree = self.panels["tree"]
        if tree.job is not None or self._pause is not None:
            self._tell(self.status.but(error=error))
        elif self._loading_error is not None:
            self._tell(self._kept.but(state="error", text="not loaded", error=error))
        elif tree.error is not None:
            self._tell(self._kept.but(state="error", text="not computed", error=error))
        else:
            self._tell(self._kept.but(error=error or self._kept.error))

    def _tell(self, status: Status) -> None:
        self.status = self._with_loading(status)
        self.view.show_status(self.status)

    def _with_loading(self, status: Status) -> Status:
        """Return a status that says how far the loading is, where something is being loaded."""
        if self._loading is None:
            return status
        text, progress = self._told_loading
        return status.but(
            state="loading", text=text, progress=progress, resumable=False, error=None
        )


_END = object()


def _choose(
    subject: Subject, layer: int | None, sae_id: str | None, release: str | None
) -> Subject | Entry:
    """Return the subject with the SAE that is meant selected, or its entry in the registry.

    Without a release that of the SAE which is selected now is meant.
    """
    if layer is None and sae_id is None:
        raise ExplorerError("It is not said which SAE is meant. Give its layer= or its sae_id=.")

    wanted = release if release is not None else (subject.sae.release if subject.saes else "")

    def held(within: str | None, sae_id: str | None) -> list[StudiedSAE]:
        return [
            studied
            for studied in subject.saes
            if layer in (None, studied.layer)
            and sae_id in (None, studied.sae_id)
            and within in (None, studied.release)
        ]

    if len(held(wanted, sae_id)) == 1:
        return subject.select(layer=layer, sae_id=sae_id, release=wanted)
    if wanted in registry.releases():
        try:
            entry = registry.choose(wanted, layer, sae_id)
        except ExplorerError:
            # It may be one from elsewhere, which the subject holds.
            if release is None and len(held(None, sae_id)) == 1:
                return subject.select(layer=layer, sae_id=sae_id)
            raise
        is_held = held(wanted, entry.sae_id)
        return subject.select(sae_id=entry.sae_id, release=wanted) if is_held else entry
    return subject.select(layer=layer, sae_id=sae_id, release=release)


def _weights(subject: Subject) -> dict[str, tuple[object, ...]]:
    """Return what can be seen of a model's weights without reading them, by name."""
    return {
        name: (tuple(weight.shape), weight.dtype, weight.device)
        for name, weight in subject.model.named_parameters()
    }


def _same_source(one: Request, other: Request | None) -> bool:
    """Return whether two requests are about the same vector."""
    return all(
        getattr(one, name, None) == getattr(other, name, None)
        for name in SOURCES
        if hasattr(one, name)
    )


def _goes_on(before: tree_analysis.TreeRequest, wanted: tree_analysis.TreeRequest) -> bool:
    """Return whether all that is wanted anew, if anything, is a lower cutoff."""
    return wanted.cutoff <= before.cutoff and replace(before, cutoff=wanted.cutoff) == wanted


def _settled(tree: DefinitionTree, grower: tree_analysis.TreeGrower | None) -> int:
    """Return how many of the first rows no row that is still found can come before."""
    if grower is None or not tree.partial:
        return len(tree)
    return int((tree.cumulative_probability > grower.progress().threshold).sum())


def _share(threshold: float, cutoff: float) -> float:
    """Return how far growth is on the way, in logarithms, from probability 1 to the cutoff."""
    return min(1.0, math.log(max(threshold, cutoff)) / math.log(cutoff)) if cutoff < 1 else 1.0
