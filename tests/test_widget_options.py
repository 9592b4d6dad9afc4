"""Claims about the options of the widget: what is set, refused, observed and shown."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from explorers import OPTIONS, browser, subject
from sae_explorer import ExplorerError, FeatureExplorer, grow_tree
from sae_explorer.analyses import logit_lens, trees
from sae_explorer.analyses.tokens import TokenRequest
from sae_explorer.request import schema
from sae_explorer.widget import session

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("recording")

# --- What may be set -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scale", -1, "scale is -1"),
        ("scale", "long", "auto"),
        ("scale", float("nan"), "scale is nan"),
        ("cutoff", 0, "above 0"),
        ("cutoff", None, "cutoff is None"),
        ("feature", 24, "There is no feature 24"),
        ("feature", -1, "at least 0"),
        ("feature", None, "Give one of feature"),
        ("prompt", "no place for it", "no placeholder"),
        ("weights", "decodr", "'decoder'"),
        ("weights", (0, 0), "not both 0"),
        ("pca", (0.7, 0.7), "add up to"),
        ("top_k", 321, "320"),
        ("ghost_token", "not one token", "no single token"),
        ("pattern", "(", "no regular expression"),
        ("script", "Latn", "Did you mean 'Latin'"),
        ("vector", (1.0, 2.0), "2 numbers"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_nothing_changes(
    explore: Callable[..., FeatureExplorer], name: str, value: Any, words: str
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    before, tree, state = dict(explorer._session.values), explorer.tree, dict(front_end.state)
    with pytest.raises(ExplorerError) as raised:
        setattr(explorer, name, value)
    assert words in str(raised.value)
    with pytest.raises(ExplorerError):
        explorer.update(**{"exponent": 3.0, name: value})
    sendable = "NaN" if value != value else value  # JSON has none
    reply = front_end.ask({"type": "set", "values": {"exponent": 3.0, name: sendable}})
    assert not reply["ok"]
    assert "fault in sae-explorer" not in reply["error"]
    assert {name: getattr(explorer, name) for name in before} == before == explorer._session.values
    assert explorer.tree is tree
    assert explorer.status.state == "done"
    assert front_end.state == state


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scal": 2.0}, "no option 'scal'. Did you mean 'scale'"),
        ({"scale": -1.0}, "scale is -1"),
        ({"feature": 3, "token": "the"}, "feature and token were given"),
        ({"release": "gemma-2b-res-jb"}, "subject= was given together with release"),
        ({"layer": 9}, "no SAE at layer 9"),
        ({"layers": [1]}, "subject= was given together with layers"),
        ({"model_kwargs": {"dtype": "float16"}}, "model_kwargs holds dtype"),
    ],
    ids=str,
)
def test_an_explorer_that_cannot_be_made_says_why(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ExplorerError) as raised:
        FeatureExplorer(subject=subject(), **given)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("featur", "Did you mean 'feature'"),
        ("layr", "Did you mean 'layer'"),
        ("release", r"select\(sae_id="),
    ],
)
def test_an_attribute_that_would_do_nothing_is_refused(
    explore: Callable[..., FeatureExplorer], name: str, hint: str
) -> None:
    with pytest.raises(ExplorerError, match=rf"There is no option '{name}'. .*{hint}"):
        setattr(explore(), name, 6)


def test_an_attribute_that_resembles_no_option_is_ones_own(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore()
    explorer.remark = "mine"
    assert explorer.remark == "mine"


def test_the_browser_cannot_write_what_the_kernel_alone_writes(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    before = {name: getattr(explorer, name) for name in explorer.keys}
    forged = {"_status": {"state": "broken"}, "_values": {}, "_tree": None, "_esm": "alert(1)"}
    explorer.comm.deliver({"method": "update", "state": forged})
    assert {name: getattr(explorer, name) for name in explorer.keys} == before
    assert front_end.ask({"type": "hello"})["ok"]
    explorer.comm.deliver({"method": "request_state"})
    assert front_end.state["_status"]["state"] == "done"


# --- What follows from it ------------------------------------------------------------------------


def test_setting_a_source_ends_the_others(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    sources: list[tuple[str, Any]] = [
        ("token", "Ġthe"),
        ("vector", tuple(float(n) for n in range(48))),
        ("embedding", tuple(n / 10 for n in range(48))),
        ("feature", 5),
    ]
    for name, value in sources:
        setattr(explorer, name, value)
        explorer.wait()
        for source in session.SOURCES:
            assert getattr(explorer, source) == (value if source == name else None)
            assert getattr(explorer.tree.request, source) == getattr(explorer, source)
            assert getattr(explorer.tokens.request, source) == getattr(explorer, source)
        shown = browser(explorer).state["_values"]
        assert shown[name] == (list(value) if isinstance(value, tuple) else value)
        assert explorer.tree == grow_tree(subject(), **{**OPTIONS, name: value})


def test_a_token_has_no_logit_lens(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    assert explorer.lens == logit_lens.run(subject(), explorer.lens.request)
    explorer.token = "Ġthe"
    explorer.wait()
    assert explorer.lens is None
    assert browser(explorer).state["_lens"] is None
    explorer.feature = 3
    assert explorer.wait().lens is not None


@pytest.mark.parametrize("name", ["pca", "targets", "interventions", "strengths"])
def test_setting_an_option_to_what_it_is_changes_nothing(
    explore: Callable[..., FeatureExplorer], name: str
) -> None:
    explorer = explore().wait()
    changes: list[Any] = []
    explorer.observe(changes.append, name)
    before = getattr(explorer, name)
    assert isinstance(before, tuple)
    explorer.update(**{name: list(before)})
    assert changes == []


def test_changes_from_two_threads_end_in_one_state(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(cutoff=0.1).wait()

    def change(start: float) -> None:
        for step in range(100):
            explorer.scale = start + step / 100

    threads = [threading.Thread(target=change, args=(start,)) for start in (1.0, 3.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    explorer.wait()
    shown = browser(explorer).state["_values"]["scale"]
    assert explorer.scale == shown == explorer._session.values["scale"]
    assert explorer.tree.request.scale == shown


def test_reset_goes_back_to_what_the_explorer_was_made_with(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(exponent=2.0).wait()
    tree = explorer.tree
    explorer.update(scale=4.0, exponent=3.0, centroid=True, feature=5)
    assert browser(explorer).ask({"type": "reset"})["ok"]
    assert (explorer.scale, explorer.exponent, explorer.centroid) == (2.0, 2.0, False)
    assert explorer.feature == 5
    explorer.feature = 3
    assert explorer.wait().tree == tree


def test_every_option_of_the_analyses_is_a_trait_and_a_control(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    for request in (trees.TreeRequest, TokenRequest):
        for entry in schema(request):
            assert explorer.has_trait(entry["name"])
    controls = {entry["name"] for entry in browser(explorer).state["_controls"]}
    assert controls == set(session.OPTIONS) - set(session.SOURCES)
    assert browser(explorer).state["_values"].keys() == session.OPTIONS.keys()


# --- Who observes it -----------------------------------------------------------------------------


def test_options_are_observed_and_an_observer_may_wait(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    seen = []

    def changed(change: dict[str, Any]) -> None:
        seen.append((change["old"], change["new"], explorer.wait().tree.request.scale))

    explorer.observe(changed, "scale")
    explorer.scale = 3
    explorer.exponent = 2.0
    assert browser(explorer).ask({"type": "set", "values": {"scale": 4.5}})["ok"]
    explorer.scale = 4.5
    with pytest.raises(ExplorerError):
        explorer.scale = -1
    assert seen == [(2.0, 3.0, 3.0), (3.0, 4.5, 4.5)]


def test_an_observer_that_fails_leaves_trait_and_view_the_same(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()

    def changed(_change: dict[str, Any]) -> None:
        raise RuntimeError("not my day")

    explorer.observe(changed, "scale")
    with pytest.raises(RuntimeError):
        explorer.update(scale=3.0, centroid=True)
    explorer.unobserve_all()
    explorer.wait()
    shown = browser(explorer).state["_values"]
    for name, value in {"scale": 3.0, "centroid": True}.items():
        assert getattr(explorer, name) == shown[name] == getattr(explorer.tree.request, name)
        assert value == shown[name]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("not my day"), "RuntimeError: not my day"),
        (ExplorerError("scale is 9."), "scale is 9."),
    ],
    ids=["another's error", "an error of the explorer"],
)
def test_the_browser_is_told_that_a_change_was_made_though_an_observer_failed(
    explore: Callable[..., FeatureExplorer], raised: Exception, said: str
) -> None:
    explorer = explore().wait()

    def changed(_change: dict[str, Any]) -> None:
        raise raised

    explorer.observe(changed, "feature")
    told = browser(explorer).ask({"type": "set", "values": {"direction": "3 - 5"}})
    assert told["error"] == (
        f"The change was made, but code that observes the explorer failed: {said}"
    )
    assert browser(explorer).state["_values"]["feature"] is None
    assert explorer.feature is None
    assert str(explorer.wait().tree.request.direction) == str(explorer.direction)
    # What the explorer itself refuses was not done.
    refused = browser(explorer).ask({"type": "set", "values": {"scale": -1}})["error"]
    assert "observes" not in refused
    with pytest.raises(type(raised)) as failed:
        explorer.feature = 5
    assert failed.value is raised
