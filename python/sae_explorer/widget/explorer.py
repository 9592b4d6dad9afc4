"""``FeatureExplorer``: traits and wiring between the analyses, the worker and the browser."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import os
import reprlib
import threading
import time
import types
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from sae_explorer.analyses import ANALYSES
from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading.registry import DEFAULT_RELEASE
from sae_explorer.model.ghost import SOURCES
from sae_explorer.request import plain
from sae_explorer.results import write_text
from sae_explorer.subject import Subject
from sae_explorer.text import visible
from sae_explorer.widget import html
from sae_explorer.widget.answers import INTERRUPTED, Answers
from sae_explorer.widget.panels import (
    DEFAULTS,
    OPTIONS,
    Content,
    JobState,
    Status,
    files_of,
)
from sae_explorer.widget.protocol import describe, parted
from sae_explorer.widget.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from sae_explorer.analyses.closed_loop import ClosedLoop
    from sae_explorer.analyses.definition_tree import DefinitionTree
    from sae_explorer.analyses.dose_response import DoseResponse
    from sae_explorer.analyses.logit_lens import LogitLens
    from sae_explorer.analyses.scale_sweep import ScaleSweep
    from sae_explorer.analyses.steering import SteeredTexts
    from sae_explorer.analyses.tokens import TokenRanking
    from sae_explorer.analyses.tree_difference import TreeDifference
    from sae_explorer.loading.downloads import Tell
    from sae_explorer.loading.registry import Entry
    from sae_explorer.model.direction import Direction

_REPORT = "report.html"
#: What is said of an error that is not the explorer's own.
_OBSERVED = "The change was made, but code that observes the explorer failed"
#: What is no option of an explorer, though it is one of a function, and how it is done.
_ELSEWHERE = {
    "release": " Choose by explorer.select(sae_id=..., release=...).",
}


class _Option(traitlets.TraitType[Any, Any]):
    """A trait that is an option of a request: whoever sets it asks the explorer, which checks it."""

    def set(self, obj: Any, value: Any) -> None:
        obj.update(**{str(self.name): value})

    def store(self, obj: Any, value: Any) -> None:
        """Set a value that has been checked, and tell the observers."""
        super().set(obj, value)


def _members() -> dict[str, Any]:
    """Return a trait for each option and, for each analysis, its result and the browser's copy."""
    return {
        **{
            name: _Option(default_value=default, allow_none=True, help=OPTIONS[name]["help"])
            for name, default in DEFAULTS.items()
        },
        **{
            f"_{name}": traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
            for name in ANALYSES
        },
        **{name: _result(name) for name in ANALYSES},
    }


def _result(name: str) -> property:
    return property(
        lambda self: self._session.result(name),
        doc=f"What is shown by {name!r}: {ANALYSES[name].summary}; None where there is none yet.",
    )


_Widget: Any = types.new_class(
    "_Widget", (anywidget.AnyWidget,), exec_body=lambda body: body.update(_members())
)


class FeatureExplorer(_Widget):  # type: ignore[misc]
    """A widget that shows what a feature of an SAE means: definition tree, tokens, logit lens.

    It appears at once, loads the model and grows the tree beside the kernel's own work. Every
    option of :func:`~sae_explorer.grow_tree` and :func:`~sae_explorer.rank_tokens` is a trait, such
    as ``explorer.scale``: setting it checks it, raises an :class:`ExplorerError` if it cannot be,
    and brings the view up to date. So are the options of the analyses that take longer, which
    :meth:`run` starts: steered texts, dose-response, scales, tree difference and closed loop.

    Parameters
    ----------
    feature
        Index of the feature (latent) to look at first, or a sum of features; 0 unless another
        source is given (``direction=``, ``vector=``, ``token=``, ``embedding=``).
    subject
        The model and its SAEs. None loads them from SAELens' registry.
    layer, sae_id
        Which SAE: of the release, or of the subject. :meth:`select` chooses another later.
    layers
        Several layers of the release, whose SAEs are loaded together; the first one is shown first.
    release, model, tokenizer, device, dtype, revision, force_download, other_model
        What to load, as in :meth:`Subject.from_pretrained`.
    local_files_only, allow_pickle
        Likewise; they also hold for the SAEs that are loaded later.
    model_kwargs
        More options of the model, passed on to ``AutoModelForCausalLM.from_pretrained``.
    **options
        Options of the analyses, such as ``scale=2.5`` or ``interventions=[Clamp(17, 8.0)]``.

    Raises
    ------
    ExplorerError
        If an option is unknown or out of range, or two that exclude each other are given. What goes
        wrong while loading or growing is shown in the widget, and raised by :meth:`wait`.

    Examples
    --------
    >>> FeatureExplorer(layer=12, feature=4021)  # doctest: +SKIP
    >>> explorer = FeatureExplorer(subject=subject, feature=17)  # doctest: +SKIP
    >>> explorer.wait().tree.definitions(5)  # doctest: +SKIP
    >>> explorer.run("steering", strengths=(0.5, 1.0)).wait().steering.texts  # doctest: +SKIP
    """

    if TYPE_CHECKING:
        tree: DefinitionTree | None
        tokens: TokenRanking | None
        lens: LogitLens | None
        steering: SteeredTexts | None
        dose: DoseResponse | None
        scales: ScaleSweep | None
        difference: TreeDifference | None
        loop: ClosedLoop | None

    _esm: ClassVar[str] = html.asset("widget.js")
    _css: ClassVar[str] = html.asset("widget.css")

    _subject = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    _controls: Any = traitlets.List().tag(sync=True)
    _values = traitlets.Dict().tag(sync=True)
    _status = traitlets.Dict().tag(sync=True)
    _jobs = traitlets.Dict().tag(sync=True)
    _files: Any = traitlets.List().tag(sync=True)
    #: The class of its static summary, which the browser hides where the widget is drawn.
    _summary_class = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        feature: int | Direction | None = None,
        *,
        subject: Subject | None = None,
        layer: int | None = None,
        sae_id: str | None = None,
        layers: Sequence[int] | None = None,
        release: str | None = None,
        model: Any = None,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: Any = None,
        revision: str | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        allow_pickle: bool = False,
        other_model: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if feature is not None:
            options["feature"] = feature
        ours = inspect.signature(type(self)).parameters
        for name in options:
            hint = "" if name in OPTIONS else did_you_mean(name, ours)
            if hint:
                raise ExplorerError(f"There is no option {name!r}.{hint}")
        source = {
            "layers": layers,
            "release": release,
            "model": model,
            "tokenizer": tokenizer,
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "force_download": force_download or None,
            "other_model": other_model or None,
            "model_kwargs": model_kwargs,
        }
        given: dict[str, Any] = {name: v for name, v in source.items() if v is not None}
        access: dict[str, Any] = {
            "local_files_only": local_files_only,
            "allow_pickle": allow_pickle,
        }
        add = partial(_added, **access)
        twice = {"layer", "sae_id", *source, *access}.intersection(model_kwargs or ())
        if twice:
            raise ExplorerError(
                f"model_kwargs holds {', '.join(sorted(twice))}, which the explorer takes itself. "
                "Give it outside of model_kwargs."
            )
        if subject is None:
            given |= {"layer": layer, "sae_id": sae_id, **access}
            self._begin(partial(_pretrained, **given), options, add=add)
            return
        if given:
            raise ExplorerError(
                f"subject= was given together with {', '.join(given)}; a subject has these "
                "already. Leave one or the other out."
            )
        if layer is not None or sae_id is not None:
            subject = subject.select(layer=layer, sae_id=sae_id)
        chosen = subject
        self._begin(lambda _tell: chosen, options, add=add)

    @classmethod
    def demo(cls, layer: int | None = None, **options: Any) -> FeatureExplorer:
        """Explore the bundled dictionary model: offline, without a GPU.

        Parameters
        ----------
        layer
            1 or 3 (the default).
        **options
            As for the class. What is not given is chosen to suit this model: a feature that
            explains itself well, and the way it is made a vector.
        """
        from sae_explorer.loading import demo

        at = demo.SHOWN_LAYER if layer is None else layer
        if at not in demo.LAYERS:
            listed = " and ".join(map(str, demo.LAYERS))
            raise ExplorerError(f"The bundled model has SAEs at layers {listed}, not at {at}.")
        if not any(options.get(name) is not None for name in SOURCES):
            options["feature"] = demo.shown(at)
        featured: dict[int, list[dict[str, Any]]] = {one: [] for one in demo.LAYERS}
        for entry in demo.featured():
            featured[entry.layer].append({"feature": entry.feature, "label": entry.label})

        def load(tell: Tell) -> Subject:
            tell("loading the bundled dictionary model", None)
            return Subject.demo(at)

        explorer = cls.__new__(cls)
        explorer._begin(load, {**demo.DIRECTION, "text": demo.TEXT, **options}, featured)  # noqa: SLF001 - its own
        return explorer

    def _begin(
        self,
        load: Callable[[Tell], Subject],
        given: Mapping[str, Any],
        featured: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
        add: Callable[[Subject, Entry, Tell], Subject] | None = None,
    ) -> None:
        self._changing = threading.RLock()
        self._answers = Answers()
        self._told = itertools.count(1)
        self._summary: Any = None
        self._summary_class = f"sae-summary-{uuid.uuid4().hex}"
        self._session = Session(load, add or _added, given, self)
        self._featured = featured or {}
        self._context = contextvars.copy_context()
        # What the controls go back to is what the explorer was made with.
        initial = _as_json(self._session.initial())
        self._controls = [{**OPTIONS[name], "default": value} for name, value in initial.items()]
        self._store(self._session.values)
        self.show_jobs(self._session.requested.states)
        self.show_status(self._session.status)
        # This opens the line to the browser, which may ask for all there is from now on.
        super().__init__()
        self.on_msg(self._hear)
        self._session.start()

    # ---- what Python users see

    @property
    def subject(self) -> Subject | None:
        """The model and the SAE; None while they are being loaded."""
        return self._session.subject

    @property
    def status(self) -> Status:
        """What the explorer is doing, with the figures that the header shows."""
        return self._session.status

    @property
    def jobs(self) -> dict[str, JobState]:
        """How the analyses stand that :meth:`run` starts, by name."""
        return self._session.requested.states

    def update(self, /, **changes: Any) -> None:
        """Set several options at once, such as ``explorer.update(scale=2.5, centroid=True)``.

        Raises
        ------
        ExplorerError
            If one of them is unknown or out of range; then nothing is changed.
        """
        # One change after the other: a cell and the browser may set the same option at once.
        with self._changing:
            accepted = self._session.checked(changes)
            self._session.change(accepted)
            self._store(accepted)

    @property
    def layer(self) -> int | None:
        """Layer of the SAE that is shown; None while there is none. Setting it selects another."""
        return self.subject.sae.layer if self.subject and self.subject.saes else None

    @layer.setter
    def layer(self, layer: int) -> None:
        self.select(layer=layer)

    @property
    def sae_id(self) -> str | None:
        """Id of the SAE that is shown; None while there is none. Setting it selects another."""
        return self.subject.sae.sae_id if self.subject and self.subject.saes else None

    @sae_id.setter
    def sae_id(self, sae_id: str) -> None:
        self.select(sae_id=sae_id)

    def select(
        self, layer: int | None = None, sae_id: str | None = None, release: str | None = None
    ) -> None:
        """Show another SAE: at once where the subject holds it, else once it is loaded.

        Only the SAE is loaded; the model stays. What is shown stays until then, :meth:`cancel`
        breaks it off, and :meth:`wait` waits for it.

        Parameters
        ----------
        layer, sae_id
            Which SAE: its layer, where that has only one or one that is called canonical, or its id.
        release
            Name of its release in SAELens' registry; None: the one of the SAE that is shown now.

        Raises
        ------
        ExplorerError
            If it is not clear which SAE is meant, or there is no model yet.

        Examples
        --------
        >>> explorer.select(layer=6)  # doctest: +SKIP
        >>> explorer.layer = 6  # doctest: +SKIP
        """
        self._session.select(layer, sae_id, release)

    def reset(self) -> FeatureExplorer:
        """Set all options but the feature back to what the explorer was made with; return it."""
        self.update(**self._session.initial())
        return self

    def run(self, panel: str, /, **options: Any) -> FeatureExplorer:
        """Start an analysis that runs on request, and return at once.

        Parameters
        ----------
        panel
            ``"steering"``, ``"dose"``, ``"scales"``, ``"difference"`` or ``"loop"``. Its result is
            the explorer's attribute of that name once :meth:`wait` returns. A run of it with other
            options is broken off.
        **options
            Options to set before, as by :meth:`update`; some belong to several analyses, as ``text``
            does to ``"steering"`` and ``"dose"``.

        Returns
        -------
        FeatureExplorer
            The explorer itself: ``explorer.run("steering", text="I went to").wait().steering``.

        Raises
        ------
        ExplorerError
            If there is no such analysis, or it cannot be asked with these options. What goes wrong
            while it runs is shown in its panel, and raised by :meth:`wait`.
        """
        if panel not in self._session.requested.names:
            self._session.requested.run(panel)  # which says what there is
        if options:
            self.update(**options)
        self._session.requested.run(panel)
        return self

    def cancel(self, panel: str | None = None) -> None:
        """Stop what is going on within one step; what there is stays, marked partial.

        Parameters
        ----------
        panel
            Only this analysis of those that :meth:`run` starts; None stops everything.
        """
        if panel is None:
            self._session.cancel()
        self._session.requested.cancel(panel)

    def resume(self) -> None:
        """Grow a partial tree on from where it was stopped.

        Raises
        ------
        ExplorerError
            If there is none.
        """
        self._session.resume()

    def retry(self) -> None:
        """Load or compute again what failed or was stopped."""
        self._session.start()

    def wait(self, timeout: float | None = None) -> FeatureExplorer:
        """Wait until everything that was asked for is there.

        Parameters
        ----------
        timeout
            Seconds after which to give up; None waits for ever.

        Returns
        -------
        FeatureExplorer
            The explorer itself: ``explorer.wait().tree``.

        Raises
        ------
        ExplorerError
            What the widget shows as its error, or what ended a run since the last time.
        TimeoutError
            If it takes longer than ``timeout``; the work goes on.
        KeyboardInterrupt
            On Ctrl-C, after the work was cancelled.
        """
        end = None if timeout is None else time.monotonic() + timeout
        self._session.hurry()
        try:
            while self._session.busy:
                if end is not None and time.monotonic() > end:
                    raise TimeoutError(f"The explorer is still {self._session.doing}.")
                time.sleep(0.02)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._waited()

    def __await__(self) -> Generator[Any, None, FeatureExplorer]:
        """Wait as :meth:`wait` does, leaving the event loop free."""
        return self._awaited().__await__()

    async def _awaited(self) -> FeatureExplorer:
        self._session.hurry()
        try:
            while self._session.busy:
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._waited()

    def _waited(self) -> FeatureExplorer:
        # Once more in the caller's context: what runs notebooks saves only what its cell said.
        self.send_state([name for name in self.keys if name not in ("_esm", "_css")])
        self._show_summary()
        # ipykernel hears the browser where the last message came from: not behind this cell.
        self._publish(self.send_state, "_status")
        if self.status.error is not None:
            raise ExplorerError(self.status.error)
        failure = self._session.requested.failure()
        if failure is not None:
            raise ExplorerError(failure)
        return self

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write everything that is shown as one self-contained page.

        The page opens from disk without a network; it folds, sorts, searches and exports, and only
        cannot recompute.

        Parameters
        ----------
        path
            Where to write it.

        Returns
        -------
        str
            The path, or the page itself where none is given: it is too long for the output of a
            cell.
        """
        text = self._page(self._session.content())
        if path is None:
            return text
        write_text(path, text)
        return os.fspath(path)

    def _page(self, content: Content) -> str:
        try:
            about = content.subject and describe(content.subject, self._featured)
            shown = {
                f"_{n}": result.payload(content.subject) for n, result in content.results.items()
            }
        except RuntimeError:  # the model was freed: what was found with it is here all the same
            about = self._subject
            shown = {f"_{name}": result.payload() for name, result in content.results.items()}
        # Without a kernel there is no other SAE to choose.
        state: dict[str, Any] = {"_subject": about and {**about, "saes": []}}
        state |= {"_controls": self._controls} | {f"_{name}": None for name in ANALYSES} | shown
        if state["_tree"] is not None:
            state["_tree"] |= {"run": content.status.run, "settled": content.status.nodes}
        state["_values"] = _as_json(content.values)
        state["_status"] = content.status.to_dict()
        state["_jobs"] = {name: job.to_dict() for name, job in content.jobs.items()}
        return html.page(
            state,
            title=self._title(content),
            summary=self._static_summary(content),
            attachments={
                file: (form.mime, getattr(result, form.method)().encode())
                for file, (result, form) in files_of(content.results).items()
            },
        )

    def snapshot(self, height: int = 700) -> html.Snapshot:
        """Return the page of :meth:`to_html` as the output of a cell, which needs no kernel.

        Parameters
        ----------
        height
            In pixels.
        """
        content = self._session.content()
        return html.snapshot(self._page(content), self._static_summary(content), height)

    def __repr__(self) -> str:
        where = repr(self.subject) if self.subject is not None else "no model yet"
        label = self._session.content().label
        return f"FeatureExplorer({label}, {where}, {self.status.text})"

    def _ipython_display_(self) -> None:
        from IPython.display import DisplayHandle, display

        data, metadata = self._repr_mimebundle_()
        del data["text/plain"]  # the summary says more, and goes with the state
        display(data, metadata=metadata, raw=True)
        # Beside it what a reader sees where scripts do not run; where the widget is alive, it
        # hides this.
        if self._summary is None:
            self._summary = DisplayHandle()  # one for all cells that show the explorer
        self._summary.display(self._summary_data(), raw=True)

    def close(self) -> None:
        """Stop all work, take the widget away, and let go of the model and the results.

        Notebooks keep every widget that was ever made, and with it what it holds: close one whose
        model needs much memory before you make another.
        """
        if hasattr(self, "_session"):  # not where its options were refused
            self._session.close()
        super().close()

    def __setattr__(self, name: str, value: Any) -> None:
        # A misspelt option would else be kept as an attribute, and nothing would happen.
        hint = "" if name.startswith("_") else did_you_mean(name, [*OPTIONS, "layer", "sae_id"])
        hint = _ELSEWHERE.get(name, hint)
        if hint and not hasattr(type(self), name):
            raise ExplorerError(f"There is no option {name!r}.{hint}")
        super().__setattr__(name, value)

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Take nothing from the browser: it asks for changes by messages."""

    def _store(self, values: dict[str, Any]) -> None:
        """Let the traits say what the session's options are."""
        now, known = self._session.values, self.traits()
        self._publish(self.set_trait, "_values", _as_json(now))
        try:
            # Each of them, though an observer of another may fail.
            with contextlib.ExitStack() as stack:
                for name in reversed(values):
                    stack.callback(known[name].store, self, now[name])
        except Exception as error:
            error.add_note(_OBSERVED)
            raise

    # ---- telling the browser

    def _publish(self, send: Callable[..., Any], *arguments: Any) -> None:
        # In a copy of the context of the browser's last message: under that of the cell which made
        # the widget, a running cell would hold up what the browser says.
        self._context.copy().run(send, *arguments)

    def show_status(self, status: Status) -> None:
        """See :class:`View`; the files that can be exported change with it."""
        files = [*self._session.exports]
        self._publish(self.set_trait, "_files", [*files, _REPORT] if files else [])
        self._publish(self.set_trait, "_status", status.to_dict())
        if status.state in ("done", "partial", "error"):
            self._publish(self._show_summary)

    def show_subject(self, subject: Subject) -> None:
        """See :class:`View`."""
        self._publish(self.set_trait, "_subject", describe(subject, self._featured))

    def show_result(self, name: str, payload: dict[str, Any] | None) -> None:
        """See :class:`View`."""
        numbered = None if payload is None else {**payload, "number": next(self._told)}
        self._publish(self.set_trait, f"_{name}", numbered)

    def show_jobs(self, jobs: Mapping[str, JobState]) -> None:
        """See :class:`View`."""
        now = {name: job.to_dict() for name, job in jobs.items()}
        self._publish(self.set_trait, "_jobs", now)

    def show_partial(self, name: str, payload: dict[str, Any]) -> None:
        """See :class:`View`."""
        message = {"type": "partial", "panel": name, "payload": payload}
        self._publish(self._send_message, message)

    def show_growth(self, rows: dict[str, Any] | None, status: Status) -> None:
        """See :class:`View`."""
        message: dict[str, Any] = {"type": "status", "status": status.to_dict()}
        if rows is not None:
            message |= {"type": "append", "panel": "tree", "rows": rows}
        self._publish(self._send_message, message)

    def _send_message(self, content: Mapping[str, Any]) -> None:
        plain, buffers = parted(content)
        self.send(plain, buffers)

    # ---- what the browser says

    def _hear(self, _widget: object, content: Any, _buffers: object) -> None:
        self._context = contextvars.copy_context()
        told = content if isinstance(content, dict) else {}
        if told.get("type") == "reset":
            # As what it sets: of that, later messages may have set something since.
            told = {**told, "type": "set", "values": self._session.initial()}
        try:
            answer = self._answers.to(told, self._answer)
        except BaseException:  # such as an interrupt of the kernel
            self._reply(told, INTERRUPTED)
            raise
        # The answer comes to whoever asked the same first.
        self._reply(told, {"type": "doing"} if answer is None else answer)

    def _reply(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        # What is sent back must be possible to send, whatever it answers.
        rid = told.get("rid")
        known = isinstance(rid, int) or (isinstance(rid, str) and rid.isascii())
        self._send_message({"type": "reply", "rid": rid if known else None, **answer})

    def _answer(self, told: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, **(self._heard(told) or {})}
        # Whatever it is must be told where it was asked: nobody sees the kernel's log.
        except Exception as error:  # noqa: BLE001
            return {"ok": False, "error": visible(self._refusal(error))}

    def _refusal(self, error: Exception) -> str:
        """Return what to tell the browser of what its message ended with."""
        if _OBSERVED not in getattr(error, "__notes__", ()):
            return self._session.in_words(error)
        name = "" if isinstance(error, ExplorerError) else f"{type(error).__name__}: "
        return f"{_OBSERVED}: {name}{error}"

    def _heard(self, told: Mapping[str, Any]) -> dict[str, Any] | None:
        """Do what a message asks for, and return what to reply."""
        match told:
            case {"type": "hello"}:
                self._send_again(told.get("known"))
                self._session.repeat(told.get("run"))
            case {"type": "since", "run": int(run), "first": int(first)}:
                self._session.repeat_growth(first, run)
            case {"type": "set", "values": dict(values)}:
                self.update(**values)
            case {"type": "select", "release": str(release), "sae_id": str(sae_id)}:
                self.select(sae_id=sae_id, release=release)
            case {"type": "run", "panel": str(panel)}:
                self._session.requested.start(panel)
            case {"type": "cancel", "panel": str(panel)}:
                self.cancel(panel)
            case {"type": "run" | "cancel", "panel": other} if other is not None:
                raise ExplorerError(f"There is no panel {reprlib.repr(other)}.")
            case {"type": "run"}:
                self.retry()
            case {"type": "resume"}:
                self.resume()
            case {"type": "cancel"}:
                self._session.cancel()
            case {"type": "export", "file": str(file)}:
                return {"file": self._exported(file)}
            case _:
                raise ExplorerError(f"There is no message such as {reprlib.repr(told)}.")
        return None

    def _send_again(self, known: object) -> None:
        """Send the results whose numbers are not the known ones, and all that is small."""
        if not isinstance(known, dict):
            return
        lacking = [
            f"_{name}"
            for name in ANALYSES
            if name in known and known[name] != (getattr(self, f"_{name}") or {}).get("number")
        ]
        self._publish(self.send_state, ["_subject", "_values", "_files", "_jobs", *lacking])

    def _exported(self, file: str) -> dict[str, Any]:
        if file == _REPORT:
            content = self._session.content()
            shown = [*content.results.values()]
            mime, text = "text/html", self._page(content)
        else:
            exports = self._session.exports
            if file not in exports:
                raise ExplorerError(
                    f"There is no file {file}. Possible: {', '.join([*exports, _REPORT])}."
                )
            result, form = exports[file]
            shown = [result]
            mime, text = form.mime, getattr(result, form.method)()
        # Files of several features lie in one folder.
        name = f"{shown[0].stem}-{file}" if shown else file
        return {"name": name, "mime": mime, "data": text.encode()}

    # ---- pages

    def _title(self, content: Content) -> str:
        on = content.subject
        where = "" if on is None else on.model_id
        if on is not None and on.saes:
            where = f"{on.sae.sae_id} of {where}"
        # No more than the first letter: the rest may be names.
        about = content.label[:1].upper() + content.label[1:]
        return about + (f" of {where}" if where else "")

    def _static_summary(self, content: Content) -> str:
        return html.summary(self._title(content), content.status.text, **content.results)

    def _summary_data(self) -> dict[str, str]:
        summary = self._static_summary(self._session.content())
        return {
            "text/html": f'<div class="{self._summary_class}">{summary}</div>',
            "text/plain": repr(self),
        }

    def _show_summary(self) -> None:
        if self._summary is not None:
            self._summary.update(self._summary_data(), raw=True)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}


def _pretrained(
    tell: Tell,
    *,
    release: str = DEFAULT_RELEASE,
    model_kwargs: Mapping[str, Any] | None = None,
    **which: Any,
) -> Subject:
    from sae_explorer.loading import hub

    tell(f"loading {release} and its model", None)
    return hub.load(release, tell=tell, **which, **(model_kwargs or {}))


def _added(subject: Subject, entry: Entry, tell: Tell, **access: Any) -> Subject:
    from sae_explorer.loading import hub

    return hub.add_sae(subject, entry.release, entry.sae_id, tell=tell, **access)
