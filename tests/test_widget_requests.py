"""Claims about the analyses that the widget runs on request: started, followed, stopped, marked."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import comm
import numpy as np
import pytest
import torch

from explorers import REQUESTED, SMALL, Gate, Recording, begun, small_steps, subject
from front_end import FrontEnd
from sae_explorer import Clamp, ExplorerError, FeatureExplorer, Steer, Subject, feature
from sae_explorer.analyses import ANALYSES
from sae_explorer.analyses.steering import steer_text
from sae_explorer.text import visible
from sae_explorer.widget import requested
from test_html import Elements, carried
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IDLE = {"state": "idle", "text": "", "progress": None, "error": None}


class Hearing(FrontEnd):
    """A front-end that also keeps what runs have found so far, and how they stood."""

    def __init__(self, send: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(send)
        self.partials: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []

    def _take(self, state: dict[str, Any]) -> None:
        super()._take(state)
        if state.get("_jobs"):
            self.jobs.append(state["_jobs"])

    def _told(self, content: dict[str, Any]) -> None:
        if content["type"] == "partial":
            assert self.state["_jobs"][content["panel"]]["state"] == "running"
            self.partials.append(content)
        else:
            super()._told(content)

    def states(self, name: str) -> list[str]:
        """Return the states that a panel went through."""
        told = [jobs[name]["state"] for jobs in self.jobs]
        return [state for at, state in enumerate(told) if told[at - 1 : at] != [state]]


class HearingComm(Recording):
    player = Hearing


@pytest.fixture(autouse=True)
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", HearingComm)
    monkeypatch.setattr(requested, "_INTERVAL", 0.0)
    monkeypatch.setattr(requested, "_TELLING", float("inf"))


@pytest.fixture
def explore(explore: Callable[..., FeatureExplorer]) -> Callable[..., FeatureExplorer]:
    """Return what makes explorers whose runs are small; they are closed in the end."""
    small = {name: value for panel in REQUESTED for name, value in SMALL[panel].items()}
    return lambda *given, **options: explore(*given, **{**small, **options})


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return a gate before the model of `subject`, open until it is shut."""
    # What is tried out and measured on a model's first use.
    steer_text(subject(), feature=3, interventions=[Clamp(7, 2.0)], **SMALL["steering"])
    gate = Gate(subject().model)
    gate.let(float("inf"))
    yield gate
    gate.open()


def browser(explorer: FeatureExplorer) -> Hearing:
    front_end: Hearing = explorer.comm.front_end
    return front_end


def job(explorer: FeatureExplorer, name: str = "steering") -> dict[str, Any]:
    told: dict[str, Any] = browser(explorer).state["_jobs"][name]
    return told


def running(explorer: FeatureExplorer, gate: Gate, forwards: int = 0) -> FeatureExplorer:
    """Start the steering, and let it go so far."""
    explorer.wait()
    gate.shut()
    explorer.run("steering")
    gate.let(forwards)
    browser(explorer).until(lambda: gate.waiting)
    return explorer


# --- From the button to the result -----------------------------------------------------------------


def test_nothing_runs_that_was_not_asked_for(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    assert browser(explorer).state["_jobs"] == dict.fromkeys(REQUESTED, IDLE)
    for name in REQUESTED:
        assert getattr(explorer, name) is None
        assert browser(explorer).state[f"_{name}"] is None


@pytest.mark.parametrize("name", REQUESTED)
def test_a_run_gives_what_the_function_gives(
    explore: Callable[..., FeatureExplorer], name: str
) -> None:
    explorer = explore().wait()
    tree, front_end = explorer.tree, browser(explorer)
    assert front_end.ask({"type": "run", "panel": name})["ok"]
    assert explorer.wait() is explorer
    request_class, result_class, run = ANALYSES[name].load()
    result = getattr(explorer, name)
    assert isinstance(result, result_class)
    panel = explorer._session.requested._panels[name]
    alone = run(subject(), request_class(**{o: explorer._session.values[o] for o in panel.takes}))
    assert result.request == alone.request
    assert len(result.to_frame()) == len(alone.to_frame())
    assert front_end.state[f"_{name}"]["label"] == result.payload(subject())["label"]
    assert front_end.states(name) == ["idle", "running", "done"]
    assert explorer.tree is tree
    assert {f"{name}.json", f"{name}.csv"} <= set(front_end.state["_files"])
    answer = front_end.ask({"type": "export", "file": f"{name}.json"})
    assert bytes(answer["file"]["data"]).decode() == result.to_json()


def test_what_is_found_so_far_is_streamed(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().run("steering").wait()
    front_end = browser(explorer)
    counts = [
        sum(text["generated"].count(True) for text in told["payload"]["texts"])
        for told in front_end.partials
    ]
    assert counts == sorted(counts)
    assert len(counts) >= 3
    assert {told["payload"]["status"] for told in front_end.partials} == {"partial"}
    shares = [j["steering"]["progress"] for j in front_end.jobs if j["steering"]["progress"]]
    assert shares == sorted(shares)
    whole = front_end.state["_steering"]
    assert whole["status"] == "complete"
    assert [text["label"] for text in whole["texts"]] == ["unsteered", "+0.5", "+1"]


def test_run_sets_options_and_returns_the_explorer(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore()
    texts = explorer.run("steering", text="a", strengths=(2.0,)).wait().steering
    assert (explorer.text, explorer.strengths) == ("a", (2.0,))
    assert texts.request.strengths == (2.0,)
    assert len(texts) == 2


def test_a_run_asked_for_before_there_is_a_model_begins_when_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_load = threading.Event()

    def load(_tell: Any) -> Subject:
        assert let_load.wait(60)
        return subject()

    explorer = begun(load, **SMALL["steering"])
    explorer.run("steering")
    assert job(explorer)["state"] == "running"
    assert job(explorer)["text"] == "waiting for the model"
    let_load.set()
    assert explorer.wait().steering is not None
    explorer.close()


def test_a_client_that_comes_late_hears_what_was_found(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(), gate, 3)
    front_end = browser(explorer)
    told = front_end.partials[-1]
    front_end.partials.clear()
    assert front_end.ask({"type": "hello"})["ok"]
    assert front_end.partials == [told]


# --- Options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"strengths": (2.0,)}, True),
        ({"feature": 5}, True),
        ({"interventions": [Clamp(7, 2.0)]}, True),
        ({"token": "Ġthe"}, True),
        ({"action": "clamp"}, True),  # with this unit no request at all
        ({"cutoff": 1e-2}, False),
        ({"exponent": 2.0}, False),
    ],
    ids=str,
)
def test_a_result_is_stale_when_an_option_of_its_request_changes(
    explore: Callable[..., FeatureExplorer], change: dict[str, Any], stale: bool
) -> None:
    explorer = explore().run("steering").wait()
    result = explorer.steering
    before = {name: getattr(explorer, name) for name in change if name != "token"}
    explorer.update(**change)
    assert (
        job(explorer)["state"] == explorer.jobs["steering"].state == ("stale" if stale else "done")
    )
    assert explorer.wait().steering is result
    assert job(explorer)["state"] == ("stale" if stale else "done")
    explorer.update(**(before or {"feature": 3}))
    assert job(explorer)["state"] == "done"


def test_a_point_chosen_on_the_sweep_leaves_the_sweep_as_it_is(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().run("scales").wait()
    explorer.scale = float(explorer.scales.scale[0])
    assert job(explorer, "scales")["state"] == "done"
    explorer.prompt = 'The word "{ghost}" means "'
    assert job(explorer, "scales")["state"] == "stale"


def test_a_run_about_a_tree_of_automatic_scale_takes_the_tree_that_is_shown(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(scale="auto").run("loop").wait()
    assert explorer._session.requested._panels["loop"].tree is explorer.tree
    assert browser(explorer).state["_values"]["scale"] == "auto"
    assert job(explorer, "loop")["state"] == "done"
    assert carried(explorer.to_html())["state"]["_values"]["scale"] == "auto"


def test_interventions_and_a_direction_are_options(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore()
    front_end = browser(explorer)
    explorer.interventions = [Steer(5, 1.5), Clamp(7, 2.0)]
    told = front_end.state["_values"]["interventions"]
    assert json.loads(json.dumps(told)) == [one.to_dict() for one in explorer.interventions]
    tree = explorer.wait().tree
    assert tree.request.interventions == (Steer(5, 1.5), Clamp(7, 2.0))
    for words in ("feature 5 +1.5", "feature 7 at 2"):
        assert words in repr(explorer)
        assert words in explorer.to_html().split("</title>")[0]
        assert words in front_end.state["_tree"]["label"]
    explorer.direction = feature(3) - 0.5 * feature(5, "decoder")
    assert explorer.feature is None
    assert front_end.state["_values"]["direction"] == "3 - 0.5*5:decoder"
    # What the browser was told, it can ask for.
    asked = {"interventions": told, "direction": "3 + 5"}
    assert front_end.ask({"type": "set", "values": asked})["ok"]
    assert explorer.direction == feature(3) + feature(5)
    explorer.feature = feature(3) - feature(9)
    assert (explorer.feature, str(explorer.direction)) == (None, "3 - 9")
    assert str(explorer.wait().tree.request.direction) == "3 - 9"
    assert explorer.run("steering").wait().steering.request.direction == feature(3) - feature(9)


def test_options_that_do_not_go_together_are_told_when_the_run_is_asked_for(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    explorer.action = "clamp"  # the unit comes next
    with pytest.raises(ExplorerError, match="no residual norm"):
        explorer.run("steering")
    assert explorer.wait().status.state == "done"
    assert browser(explorer).ask({"type": "run", "panel": "steering"})["ok"]
    assert job(explorer)["state"] == "error"
    assert "no residual norm" in job(explorer)["error"]
    explorer.unit = "absolute"
    assert job(explorer) == IDLE
    assert explorer.run("steering").wait().steering.labels[1] == "clamped at 0.5"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strengths": "many"}, "strengths is 'many'"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be at least 0"),
        ({"action": "push"}, "action is 'push'; it must be one of 'steer', 'clamp'"),
        ({"interventions": [{"kind": "push"}]}, "is no intervention"),
        ({"interventions": [Clamp(99, 1.0)]}, "no feature 99"),
        ({"direction": "3 *"}, "3 \\*"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(
    explore: Callable[..., FeatureExplorer], change: dict[str, Any], words: str
) -> None:
    explorer = explore().wait()
    before = dict(explorer._session.values)
    with pytest.raises(ExplorerError, match=words):
        explorer.update(**change)
    assert explorer._session.values == before


def test_what_a_run_cannot_be_asked_for_is_said(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore(None, token="Ġthe").wait()
    with pytest.raises(ExplorerError, match=r"not possible for token=; set feature or direction"):
        explorer.run("steering")
    with pytest.raises(ExplorerError, match=r"no analysis 'steerin' to run. Did you mean 'steer"):
        explorer.run("steerin", text="a")
    with pytest.raises(ExplorerError, match="tree and the tables are always up to date"):
        explorer.run("tree")
    for kind in ("run", "cancel"):
        reply = browser(explorer).ask({"type": kind, "panel": "no such"})
        assert "no analysis 'no such'" in reply["error"]


# --- What goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ExplorerError("Feature 3 never fires."), "^Feature 3 never fires.$"),
        (RuntimeError("the cable was pulled"), "the cable was pulled.*Try again"),
        (torch.OutOfMemoryError("no room"), "Out of memory"),
    ],
    ids=repr,
)
def test_what_fails_says_so_in_its_own_panel(
    explore: Callable[..., FeatureExplorer], error: BaseException, words: str
) -> None:
    explorer = explore().run("steering").wait()
    before = explorer.steering

    def fail(*_given: object, **_options: object) -> None:
        raise error

    panel = explorer._session.requested._panels["steering"]
    run, panel.run = panel.run, fail
    explorer.run("steering", text="a")
    with pytest.raises(ExplorerError, match=words):
        explorer.wait()
    assert job(explorer)["state"] == "error"
    # The tree and the result of before are not touched by it, and it is raised once.
    assert explorer.status.state == "done"
    assert explorer.status.error is None
    assert explorer.wait().steering is before
    assert job(explorer)["state"] == "error"
    panel.run = run
    assert explorer.run("steering").wait().steering.request.text == "a"
    assert job(explorer)["state"] == "done"


def test_the_model_is_left_as_it_was_after_a_cancelled_run(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    model = subject().model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    explorer = running(explore(interventions=[Clamp(7, 2.0)]), gate, 2)
    explorer.cancel("steering")
    gate.open()
    explorer.wait()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


# --- Cancel, and races -----------------------------------------------------------------------------


def test_cancel_keeps_what_was_found(explore: Callable[..., FeatureExplorer], gate: Gate) -> None:
    explorer = running(explore(max_tokens=30), gate, 3)
    assert browser(explorer).ask({"type": "cancel", "panel": "steering"})["ok"]
    assert job(explorer)["text"] == "stopping"
    gate.open()
    texts = explorer.wait().steering
    assert texts.status == job(explorer)["state"] == "partial"
    assert 0 < texts.generated.sum() < 90
    assert explorer.tree.status == "complete"


def test_cancel_before_a_run_has_begun_leaves_what_was_there(
    explore: Callable[..., FeatureExplorer], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    explorer = explore().run("steering").wait()
    before = explorer.steering
    gate.shut()
    explorer.cutoff = 1e-4
    explorer._session.hurry()
    browser(explorer).until(lambda: gate.waiting)  # the tree is at work: the run has to wait
    explorer.run("steering", text="a")
    assert job(explorer)["state"] == "running"
    explorer.cancel("steering")
    assert job(explorer)["state"] == "stale"
    gate.open()
    assert explorer.wait().steering is before
    assert explorer.tree.request.cutoff == 1e-4


def test_a_second_click_starts_nothing_new(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(), gate, 2)
    at_work = explorer._session.requested._panels["steering"].job
    explorer.run("steering")
    assert explorer._session.requested._panels["steering"].job is at_work
    gate.open()
    assert explorer.wait().steering.status == "complete"


def test_a_run_with_other_options_takes_the_place_of_the_first(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(max_tokens=30), gate, 2)
    explorer.run("steering", text="a", max_tokens=4)
    gate.open()
    texts = explorer.wait().steering
    assert (texts.request.text, texts.status) == ("a", "complete")
    # The first is told to have ended, so that what it had found is not taken for the second's.
    assert browser(explorer).states("steering") == ["idle", "running", "idle", "running", "done"]
    assert browser(explorer).state["_steering"]["request"]["text"] == "a"


def test_a_run_stopped_before_it_found_anything_leaves_what_was_there(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore().run("dose").wait()
    before = explorer.dose
    gate.shut()
    explorer.run("dose", text="a")
    browser(explorer).until(lambda: gate.waiting)
    explorer.cancel("dose")
    gate.open()
    assert explorer.wait().dose is before
    assert job(explorer, "dose")["state"] == "stale"


def test_a_failure_is_forgotten_once_the_same_analysis_runs_again(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore()
    browser(explorer).ask({"type": "set", "values": {"against": "nonsense"}})
    browser(explorer).ask({"type": "run", "panel": "difference"})
    browser(explorer).until(lambda: job(explorer, "difference")["state"] == "error")
    explorer.run("difference", against="weights=encoder").wait()
    assert job(explorer, "difference")["state"] == "done"


@pytest.mark.parametrize("panel", [7, ["steering"], {}, True])
@pytest.mark.parametrize("kind", ["run", "cancel"])
def test_a_message_about_no_panel_does_nothing(
    explore: Callable[..., FeatureExplorer], kind: str, panel: object
) -> None:
    explorer = explore().wait()
    reply = browser(explorer).ask({"type": kind, "panel": panel})
    assert not reply["ok"]
    assert "There is no panel" in reply["error"]
    assert explorer.status.state == "done"


def test_a_tree_asked_for_while_a_run_is_at_work_comes_after_it(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(), gate, 2)
    explorer.feature = 5
    gate.open()
    explorer.wait()
    assert explorer.tree.request.feature == 5
    assert explorer.steering.request.feature == 3
    assert job(explorer)["state"] == "stale"


def test_cancel_without_a_panel_is_about_the_tree_in_the_browser_and_all_in_python(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(max_tokens=30), gate, 2)
    browser(explorer).ask({"type": "cancel"})
    assert job(explorer)["text"] != "stopping"
    explorer.cancel()
    assert job(explorer)["text"] == "stopping"
    gate.open()
    assert explorer.wait().steering.status == "partial"


def test_wait_gives_up_in_time_and_says_what_is_running(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(), gate)
    with pytest.raises(TimeoutError, match="still running steering"):
        explorer.wait(timeout=0.05)
    gate.open()
    assert explorer.wait(timeout=60).steering is not None


def two_saes() -> Subject:
    model = build_model("llama")
    saes = [build_sae(model.config.hidden_size, layer=layer) for layer in (0, 1)]
    return Subject(model, build_tokenizer(), saes)


def test_another_sae_drops_the_results_and_breaks_off_the_runs(
    explore: Callable[..., FeatureExplorer],
) -> None:
    on = two_saes()
    first, second = (sae.sae_id for sae in on.saes)
    explorer = explore(on=on.select(sae_id=first)).run("steering").wait()
    gate = Gate(on.model)
    assert explorer.steering is not None
    explorer.run("steering", text="a", max_tokens=30)
    gate.let(3)
    browser(explorer).until(lambda: gate.waiting)
    explorer.select(sae_id=second)
    assert explorer.steering is None
    assert browser(explorer).state["_steering"] is None
    assert job(explorer) == IDLE
    gate.open()
    assert explorer.wait().steering is None
    assert job(explorer) == IDLE
    assert explorer.run("steering").wait().steering.provenance.sae["id"] == second


def test_closing_ends_a_run_and_holds_nothing(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = running(explore(max_tokens=30), gate, 2)
    at_work = explorer._session.requested._panels["steering"].job
    explorer.close()
    assert at_work.cancelled.is_set()
    gate.open()
    assert explorer.steering is None
    with pytest.raises(ExplorerError, match="was closed"):
        explorer.run("steering")


# --- What is about the tree ------------------------------------------------------------------------


def test_a_run_about_the_tree_is_given_it_once_it_has_grown(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore()
    panel = explorer._session.requested._panels["loop"]
    run, given = panel.run, []

    def watched(*about: Any, tree: Any, **options: Any) -> Any:
        given.append(tree)
        return run(*about, tree=tree, **options)

    panel.run = watched
    explorer.run("loop").wait()
    assert given == [explorer.tree]
    assert given[0] is explorer.tree
    explorer.feature = 5
    assert job(explorer, "loop")["state"] == "stale"
    # Not the tree of before, but the one that answers the same.
    explorer.run("loop").wait()
    assert given[1] is explorer.tree
    assert explorer.tree.request.feature == explorer.loop.request.feature == 5


def test_a_partial_tree_that_grows_on_makes_what_is_about_it_stale(
    explore: Callable[..., FeatureExplorer], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    gate.shut()
    explorer = explore()
    gate.let(4)
    browser(explorer).until(lambda: gate.waiting and explorer.status.nodes > 5)
    explorer.cancel()
    gate.open()
    partial = explorer.wait().tree
    assert partial.partial
    explorer.run("loop").wait()
    assert job(explorer, "loop")["state"] == "partial"
    assert len(np.frombuffer(browser(explorer).state["_loop"]["nodes"]["data"], "<f4")) == len(
        partial
    )
    explorer.resume()
    explorer.wait()
    assert job(explorer, "loop")["state"] == "stale"


# --- Pages -----------------------------------------------------------------------------------------


def test_a_page_holds_what_is_about_the_same_as_the_tree(
    explore: Callable[..., FeatureExplorer], tmp_path: Path
) -> None:
    explorer = explore()
    for name in REQUESTED:
        explorer.run(name)
    path = tmp_path / "page.html"
    assert explorer.wait().to_html(path) == str(path)
    page = path.read_text("utf-8")
    state = carried(page)["state"]
    text = Elements(page).text
    for name in REQUESTED:
        assert state[f"_{name}"]["label"] == getattr(explorer, name).request.label
        assert state["_jobs"][name]["state"] == "done"
        assert {f"{name}.json", f"{name}.csv"} <= state["_attachments"].keys()
    for steered in explorer.steering.payload()["texts"]:
        written = zip(steered["tokens"], steered["generated"], strict=True)
        shown = "".join(visible(token) for token, generated in written if generated)
        assert f"{steered['label']}: {shown}" in text
    explorer.strengths = (3.0,)
    assert carried(explorer.wait().to_html())["state"]["_values"]["strengths"] == [0.5, 1.0]
    # Of another feature than the tree they are left out; tabs without a result are empty.
    explorer.feature = 5
    state = carried(explorer.wait().to_html())["state"]
    for name in REQUESTED:
        assert state[f"_{name}"] is None
        assert state["_jobs"][name] == IDLE
        assert f"{name}.json" not in state["_attachments"]


def test_a_page_does_not_repeat_the_error_of_a_run(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore().wait()

    def fail(*_given: object, **_options: object) -> None:
        raise FileNotFoundError("/somebody/private.bin")

    explorer._session.requested._panels["steering"].run = fail
    explorer.run("steering")
    with pytest.raises(ExplorerError, match="private"):
        explorer.wait()
    assert "private" not in explorer.to_html()


def test_the_summary_lists_what_was_found(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore()
    for name in REQUESTED:
        explorer.run(name)
    text = Elements(explorer.wait()._summary_data()["text/html"]).text
    for words in (
        "Steered texts: feature 3",
        "unsteered: ",
        "+0.5: ",
        "strength, residual norm",
        "KL",
        "feature 5",
        f"The best scale is {explorer.scales.best_scale:.3g}",
        f"AUROC {explorer.loop.payload()['score']:.2f}",
    ):
        assert words in text
