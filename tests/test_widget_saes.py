"""Claims about an explorer of several SAEs: which there are, chosen, loaded, told apart."""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from explorers import OPTIONS, Gate, assert_same, begun, browser, small_steps
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree, rank_tokens
from sae_explorer.studied_sae import StudiedSAE
from sae_explorer.widget.protocol import choices
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sae_explorer.loading.downloads import Tell
    from sae_explorer.loading.registry import Entry

pytestmark = pytest.mark.usefixtures("recording")

RELEASE = "gemma-2b-res-jb"


def of_release(layer: int, features: int = 24) -> StudiedSAE:
    """Return a small SAE in the place of one of the release's."""
    sae = build_sae(48, features=features, layer=layer, seed=layer)
    return StudiedSAE(sae, f"blocks.{layer}.hook_resid_post", RELEASE)


@cache
def several() -> Subject:
    """Return a model with SAEs at layers 0 and 6, the latter selected, as if of the release."""
    model = build_model("gemma", layers=13)
    both = Subject(model, build_tokenizer(), [of_release(0), of_release(6)]).select(layer=6)
    grow_tree(both, feature=0, **OPTIONS)  # what is tried out on a model's first use
    return both


class Shelf:
    """Where more SAEs are fetched from, once the test lets them go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[int | None] = []
        self.features = 24
        self.error: Exception | None = None

    def __call__(self, subject: Subject, entry: Entry, tell: Tell) -> Subject:
        assert entry.layer is not None
        self.asked.append(entry.layer)
        tell(f"downloading {entry.sae_id}: 0.1 of 0.4 GB", 0.25)
        while not self.open.wait(0.01):
            tell(f"downloading {entry.sae_id}: 0.2 of 0.4 GB", 0.5)
        if self.error is not None:
            raise self.error
        return subject.with_sae(of_release(entry.layer, self.features))


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.open.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate before the model of `several`, which is open; trees tell of each step."""
    small_steps(monkeypatch)
    gate = Gate(several().model)
    gate.let(float("inf"))
    yield gate
    gate.open()


@pytest.fixture
def look(shelf: Shelf) -> Iterator[Callable[..., FeatureExplorer]]:
    """Return what makes explorers of `several`, to which the shelf's SAEs can be added."""
    with contextlib.ExitStack() as stack:

        def make(**given: Any) -> Any:
            explorer = begun(lambda _tell: several(), add=shelf, **given)
            stack.callback(explorer.close)
            return explorer

        yield make


def assert_shows(explorer: FeatureExplorer, on: Subject, **changed: Any) -> None:
    """Assert that every panel, the header and Python are about an SAE."""
    options = {"feature": 3, **OPTIONS, **changed}
    assert_same(explorer.tree, grow_tree(on, **options))
    assert explorer.tokens == rank_tokens(on, **explorer.tokens.request.to_dict())
    described = on.sae.describe()
    for result in (explorer.tree, explorer.tokens, explorer.lens):
        assert result.provenance.sae == described
    shown = browser(explorer).state["_subject"]
    assert (shown["sae"], shown["layer"]) == (on.sae.sae_id, on.sae.layer)
    assert (explorer.sae_id, explorer.layer) == (on.sae.sae_id, on.sae.layer)
    assert f'"sae":"{on.sae.sae_id}"' in explorer.to_html()


def ask(explorer: FeatureExplorer, sae_id: str) -> None:
    """Choose an SAE in the browser's menu."""
    (choice,) = (
        choice
        for choice in browser(explorer).state["_subject"]["saes"]
        if choice["sae_id"] == sae_id
    )
    message = {"type": "select", "release": choice["release"], "sae_id": sae_id}
    assert browser(explorer).ask(message)["ok"]


FIRST = "blocks.0.hook_resid_post"
WAYS: dict[str, Callable[[FeatureExplorer], object]] = {
    "select(layer=)": lambda explorer: explorer.select(layer=0),
    "select(sae_id=)": lambda explorer: explorer.select(sae_id=FIRST),
    "layer =": lambda explorer: setattr(explorer, "layer", 0),
    "sae_id =": lambda explorer: setattr(explorer, "sae_id", FIRST),
    "the menu": lambda explorer: ask(explorer, FIRST),
}


# --- Which there are -----------------------------------------------------------------------------


def test_the_saes_to_choose_from_are_the_held_ones_and_those_of_the_release(
    look: Callable[..., FeatureExplorer],
) -> None:
    saes = browser(look().wait()).state["_subject"]["saes"]
    assert [(sae["layer"], sae["held"]) for sae in saes] == [
        (0, True),
        (6, True),
        (10, False),
        (12, False),
        (17, False),
    ]
    assert {sae["release"] for sae in saes} == {RELEASE}
    assert all(sae["sae_id"] and sae["label"] for sae in saes)


@pytest.mark.parametrize("release", ["gemma-scope-2b-pt-res", "gemma-2b-res-jb", "not-there"])
def test_the_saes_of_a_layer_are_told_apart(release: str) -> None:
    sae_id = "layer_6/width_16k/average_l0_70"
    alone = StudiedSAE(build_sae(48, layer=6), sae_id, release)
    saes = choices(Subject(several().model, several().tokenizer, alone))
    assert len(saes) > (100 if "scope" in release else 0)
    assert [sae["sae_id"] for sae in saes if sae["held"]] == [sae_id]
    named = [(sae["layer"], sae["label"]) for sae in saes]
    assert len(set(named)) == len({(sae["release"], sae["sae_id"]) for sae in saes}) == len(saes)
    layers = [layer for layer, _label in named if layer is not None]
    assert layers == sorted(layers)


def test_an_sae_of_elsewhere_has_only_its_own_to_choose_from() -> None:
    explorer = FeatureExplorer.demo(layer=1, cutoff=1e-2).wait()
    saes = browser(explorer).state["_subject"]["saes"]
    assert [(sae["layer"], sae["held"]) for sae in saes] == [(1, True), (3, True)]
    before = browser(explorer).state["_subject"]["featured"]
    explorer.layer = 3
    assert explorer.wait().subject.sae.layer == 3
    assert browser(explorer).state["_subject"]["featured"] not in ([], before)
    with pytest.raises(ExplorerError, match=r"no SAE at layer 7. It has: .*layer 1.*layer 3"):
        explorer.layer = 7
    assert explorer.wait().layer == 3
    explorer.close()


def test_saes_of_the_same_name_in_two_releases_can_all_be_chosen(
    look: Callable[..., FeatureExplorer],
) -> None:
    name, model = "layer_1/width_16k/canonical", build_model("llama")
    ours = StudiedSAE(build_sae(48, layer=1), name, "gemma-scope-2b-pt-res-canonical")
    theirs = StudiedSAE(build_sae(48, layer=1, seed=5), name, "gemma-scope-2b-pt-mlp-canonical")
    subject = Subject(model, build_tokenizer(), [ours, theirs])
    explorer = FeatureExplorer(subject=subject.select(release=ours.release), feature=3, **OPTIONS)
    explorer.wait()
    labels = {
        (sae["release"], sae["label"])
        for sae in browser(explorer).state["_subject"]["saes"]
        if sae["held"]
    }
    assert len({label for _release, label in labels}) == 2
    for wanted in (theirs, ours):
        message = {"type": "select", "release": wanted.release, "sae_id": name}
        assert browser(explorer).ask(message)["ok"]
        assert explorer.wait().subject.sae is wanted
    explorer.layer = 1  # of the release that is shown
    assert explorer.wait().subject.sae is ours
    explorer.close()


def test_an_sae_that_is_not_clear_is_refused_and_nothing_changes(
    look: Callable[..., FeatureExplorer],
) -> None:
    explorer = look().wait()
    for wrong in ({}, {"layer": 5}, {"layer": "6"}, {"sae_id": "blocks.5"}, {"release": "none"}):
        with pytest.raises(ExplorerError):
            explorer.select(**wrong)
    reply = browser(explorer).ask({"type": "select", "release": "none", "sae_id": "x"})
    assert not reply["ok"]
    assert explorer.status.state == "done"
    assert_shows(explorer, several())


def test_an_sae_cannot_be_chosen_before_there_is_a_model() -> None:
    go = threading.Event()

    def load(_tell: Any) -> Subject:
        go.wait(30)
        return several()

    explorer = begun(load)
    assert (explorer.layer, explorer.sae_id) == (None, None)
    with pytest.raises(ExplorerError, match="no model yet"):
        explorer.layer = 6
    go.set()
    assert explorer.wait().layer == 6
    explorer.close()


# --- From one to another -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_sae_that_is_held_is_shown_at_once(
    look: Callable[..., FeatureExplorer], shelf: Shelf, way: str
) -> None:
    explorer = look().wait()
    assert_shows(explorer, several())
    told = len(browser(explorer).statuses)
    WAYS[way](explorer)
    assert explorer.layer == 0
    assert_shows(explorer.wait(), several().select(layer=0))
    assert "loading" not in [status["state"] for status in browser(explorer).statuses[told:]]
    assert explorer.subject.model is several().model
    assert shelf.asked == []


def test_an_sae_of_the_release_is_loaded_when_it_is_chosen(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    assert front_end.status["state"] == explorer.status.state == "loading"
    assert "0.2 of 0.4 GB" in front_end.status["text"]
    # What was there before stays, with its figures, and can be saved.
    assert front_end.status["nodes"] == len(explorer.tree)
    assert_shows(explorer, several())
    shelf.open.set()
    on = explorer.wait().subject
    assert on.sae.layer == 12
    assert on.model is several().model
    assert_shows(explorer, several().with_sae(of_release(12)))
    # It is held from now on.
    assert [sae["held"] for sae in front_end.state["_subject"]["saes"]].count(True) == 3
    explorer.layer = 6
    explorer.layer = 12
    assert_shows(explorer.wait(), several().with_sae(of_release(12)))
    assert shelf.asked == [12]


def test_the_sae_that_was_chosen_last_is_shown(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    for layer in (12, 10, 12, 10):
        explorer.layer = layer
    shelf.open.set()
    assert explorer.wait().layer == 10
    assert_shows(explorer, several().with_sae(of_release(10)))
    shelf.open.clear()
    explorer.layer = 12
    explorer.layer = 6  # a held one, after one that would have to be loaded
    shelf.open.set()
    assert explorer.wait().layer == 6
    assert_shows(explorer, several())


def test_a_tree_grows_on_while_another_sae_is_loaded(
    look: Callable[..., FeatureExplorer], shelf: Shelf, slow: Gate
) -> None:
    slow.shut()
    explorer = look(cutoff=1e-6)
    front_end = browser(explorer)
    slow.let(4)
    front_end.until(lambda: front_end.appends and slow.waiting)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    seen = front_end.status["nodes"]
    slow.let(4)
    front_end.until(lambda: front_end.status["nodes"] > seen)
    assert front_end.status["state"] == "loading"
    explorer.cancel()  # the loading; the tree goes on
    assert explorer.status.state == "growing"
    explorer.layer = 12
    shelf.open.set()
    slow.open()
    assert_shows(explorer.wait(), several().with_sae(of_release(12)), cutoff=1e-6)


def test_only_the_last_saes_that_were_loaded_in_passing_stay_in_memory(
    look: Callable[..., FeatureExplorer], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_explorer.widget.session._IN_PASSING", 1)
    shelf.open.set()
    explorer = look().wait()
    for layer in (12, 10, 12):
        explorer.layer = layer
        explorer.wait()
    assert shelf.asked == [12, 10, 12]
    held = [sae["layer"] for sae in browser(explorer).state["_subject"]["saes"] if sae["held"]]
    assert held == [0, 6, 12]  # what it began with, and the last one


def test_a_page_written_during_a_switch_is_about_one_sae(
    look: Callable[..., FeatureExplorer], slow: Gate
) -> None:
    explorer = look().wait()
    slow.shut()
    explorer.layer = 0
    front_end = browser(explorer)
    slow.let(1)
    # The other panels need no forward: they are about the next SAE already.
    front_end.until(lambda: explorer.tokens is not None)
    page = explorer.to_html()
    assert f"{FIRST} of" in page
    assert "there was no tree yet" in page
    assert "blocks.6" not in page + explorer.snapshot()._repr_html_()
    slow.open()
    assert_shows(explorer.wait(), several().select(layer=0))
    assert "blocks.6" not in explorer.to_html()


# --- What comes in between -----------------------------------------------------------------------


def test_loading_another_sae_can_be_cancelled(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    assert front_end.ask({"type": "cancel"})["ok"]
    assert explorer.wait().status.state == "done"
    assert_shows(explorer, several())
    # What was cancelled has ended, though nothing was ever let go; the next one is loaded.
    explorer.layer = 10
    front_end.until(lambda: shelf.asked == [12, 10])
    shelf.open.set()
    assert explorer.wait().layer == 10


def test_nothing_of_the_sae_before_is_left_when_growth_for_the_next_is_cancelled(
    look: Callable[..., FeatureExplorer], slow: Gate
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    slow.shut()
    explorer.layer = 0
    explorer.cancel()
    slow.open()
    explorer.wait()
    assert explorer.layer == front_end.state["_subject"]["layer"] == 0
    assert explorer.tree is None or explorer.tree.provenance.sae["hook_name"] == FIRST
    assert explorer.status.nodes == len(explorer.tree or ())
    explorer.resume()
    assert_shows(explorer.wait(), several().select(layer=0))


def test_an_sae_that_cannot_be_loaded_leaves_the_one_before_usable(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    shelf.open.set()
    explorer.layer = 17  # which this model has not
    with pytest.raises(ExplorerError, match="17"):
        explorer.wait()
    assert front_end.status["state"] == "error"
    assert front_end.status["nodes"] == len(explorer.tree)
    assert_shows(explorer, several())
    explorer.feature = 5
    assert explorer.wait().status.error is None
    assert_shows(explorer, several(), feature=5)
    explorer.layer = 17
    with pytest.raises(ExplorerError, match="17"):
        explorer.wait()
    explorer.layer = 6  # the one that is shown
    assert explorer.wait().status.state == "done"


def test_an_sae_that_could_not_be_loaded_can_be_tried_again(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    shelf.open.set()
    shelf.error = ExplorerError("The hub does not answer.")
    explorer.layer = 12
    with pytest.raises(ExplorerError, match="does not answer"):
        explorer.wait()
    shelf.error = None
    assert browser(explorer).ask({"type": "run"})["ok"]
    assert explorer.wait().layer == 12
    assert_shows(explorer, several().with_sae(of_release(12)))


def test_a_feature_that_the_next_sae_has_not_can_be_put_right(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look(feature=20).wait()
    front_end = browser(explorer)
    shelf.features = 8
    shelf.open.set()
    explorer.layer = 12
    with pytest.raises(ExplorerError, match=r"no feature 20: .* has 8 features"):
        explorer.wait()
    # Nothing of the SAE before stands under the name of this one.
    assert front_end.state["_subject"]["layer"] == 12
    assert (explorer.tree, explorer.tokens, explorer.lens) == (None, None, None)
    assert front_end.state["_tree"] is front_end.state["_tokens"] is None
    assert front_end.status["nodes"] == 0
    explorer.to_html()
    explorer.feature = 7
    assert_shows(explorer.wait(), several().with_sae(of_release(12, 8)), feature=7)
    explorer.layer = 6
    explorer.feature = 20
    explorer.layer = 12
    with pytest.raises(ExplorerError, match="no feature 20"):
        explorer.wait()
    explorer.layer = 6
    assert_shows(explorer.wait(), several(), feature=20)


def test_a_closed_explorer_ends_its_loading(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    explorer.layer = 12
    front_end = browser(explorer)
    front_end.until(lambda: shelf.asked == [12])
    explorer.close()
    front_end.until(lambda: explorer._session._loader is None)
    assert explorer.subject is None
