"""What people type first, in JupyterLab in a real browser: a release, fetched from a hub.

The hub is a stand-in on the loopback, the weights are small and random; everything between them and
the reader is real. Whoever else the kernel would ask is seen, and asked for nothing.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hosts.jupyterlab import Lab, NotebookPage, opened, running, written
from hosts.page import photograph, state
from hub import SAE_REPOSITORY, Fault, Hub, gemma_stand_in
from zoo import build_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator

CELL = """\
from sae_explorer import FeatureExplorer
FeatureExplorer(layer=12, feature=4021)"""
LAYERS = [0, 6, 10, 12, 17]
#: Of these layers the stand-in has no SAE.
ABSENT = 10


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Return a hub that is not running yet; files of weights take a while."""
    root = tmp_path_factory.mktemp("hub")
    gemma_stand_in(root, features=4100)
    build_model("gemma", layers=14).save_pretrained(root / "google" / "gemma-2b")
    hub = Hub(root, faults={".safetensors": Fault(pause=0.15, methods=("GET",))})
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def stranger() -> Iterator[socket.socket]:
    """Return where the kernel's words to anybody else than the hub would go."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def lab(
    hub: Hub, stranger: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("jupyterlab")
    proxy = f"http://127.0.0.1:{stranger.getsockname()[1]}"
    variables = {"HF_ENDPOINT": hub.start(), "HF_HOME": str(home / "hugging face")}
    variables["OMP_NUM_THREADS"] = "1"  # the model is tiny: more threads only wait for each other
    for name, value in (("proxy", proxy), ("no_proxy", "127.0.0.1,localhost")):
        names = [name] if name == "no_proxy" else [f"{kind}_proxy" for kind in ("http", "https")]
        variables |= {given: value for each in names for given in (each, each.upper())}
    with running(home, variables) as lab:
        yield lab


@pytest.fixture
def notebook(
    lab: Lab, browser: Browser, stranger: socket.socket, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    with opened(lab, browser, written(lab, [CELL], f"{request.node.name}.ipynb")) as notebook:
        yield notebook
    with contextlib.suppress(BlockingIOError):
        stranger.accept()
        pytest.fail("The kernel asked somebody else than the hub.")


def menu(notebook: NotebookPage) -> Locator:
    return notebook.widget.get_by_role("combobox", name="SAE", exact=True)


def choose(notebook: NotebookPage, layer: int) -> None:
    """Choose a layer in the menu."""
    menu(notebook).select_option(index=LAYERS.index(layer))


def expect_layer(notebook: NotebookPage, layer: int, feature: int = 4021) -> None:
    """Assert that a layer, its tree, tokens and lens are shown."""
    subject = notebook.widget.locator(".sae-subject")
    expect(subject).to_contain_text(f"layer {layer} ", timeout=60_000)
    state(notebook, "done")
    expect(notebook.rows.first).to_be_visible()
    assert notebook.nodes() > 100
    notebook.widget.get_by_role("tab", name="Nearest tokens").click()
    table = notebook.widget.get_by_role("table", name="Nearest tokens")
    expect(table.locator("tbody tr").first).to_be_visible()
    notebook.widget.get_by_role("tab", name="Logit lens").click()
    expect(notebook.widget.get_by_role("tabpanel", name="Logit lens")).to_contain_text(
        f"of feature {feature}"
    )
    notebook.widget.get_by_role("tab").first.click()
    assert menu(notebook).evaluate("(menu) => menu.selectedOptions[0].text") == f"layer {layer}"


def expect_progress(notebook: NotebookPage) -> None:
    """Assert that a download is seen under way, in bytes and as a bar."""
    state(notebook, "loading")
    bar = notebook.widget.get_by_role("progressbar")
    notebook.until(lambda: (bar.get_attribute("aria-valuenow") or "100") not in ("0", "100"))
    expect(notebook.status).to_contain_text("downloading")
    expect(notebook.status).to_contain_text("MB")
    expect(notebook.widget.get_by_role("button", name="Cancel")).to_be_enabled()


# One after the other, as a reader does it: cold, then from the cache with the hub gone.


@pytest.mark.host("JupyterLab 4", "grows")
def test_the_first_cell_fetches_the_model_and_shows_the_feature(
    notebook: NotebookPage, hub: Hub
) -> None:
    notebook.run(0)
    state(notebook, "loading")
    photograph(notebook, "loading")
    expect_progress(notebook)
    photograph(notebook, "downloading")
    expect_layer(notebook, 12)
    photograph(notebook, "pretrained")
    assert notebook.source() == [CELL]
    asked = " ".join(hub.requests)
    assert "google/gemma-2b model.safetensors" in asked
    assert SAE_REPOSITORY in asked
    options = menu(notebook).locator("option").all_inner_texts()
    assert [text.split()[1] for text in options] == [str(layer) for layer in LAYERS]


@pytest.mark.host("JupyterLab 4", "controls")
def test_a_layer_is_fetched_when_it_is_chosen_and_one_that_is_not_there_is_said_to(
    notebook: NotebookPage, hub: Hub
) -> None:
    notebook.run(0)
    expect_layer(notebook, 12)
    before = notebook.rows.all_inner_texts()
    fetched = hub.requests.count("GET google/gemma-2b model.safetensors")
    choose(notebook, 6)
    expect_progress(notebook)
    photograph(notebook, "downloading-a-layer")
    # The tree stays meanwhile, and Cancel goes back to it.
    assert notebook.rows.all_inner_texts() == before
    notebook.widget.get_by_role("button", name="Cancel").click()
    expect_layer(notebook, 12)
    choose(notebook, 6)
    expect_layer(notebook, 6)
    assert notebook.rows.all_inner_texts() != before
    choose(notebook, ABSENT)
    state(notebook, "error")
    expect(notebook.widget.get_by_role("alert")).to_contain_text("not on the hub")
    photograph(notebook, "no-such-layer")
    expect(notebook.widget.get_by_role("button", name="Try again")).to_be_enabled()
    field = notebook.widget.get_by_role("textbox", name="Feature to show")
    field.fill("17")
    field.press("Enter")
    expect_layer(notebook, 6, feature=17)
    choose(notebook, 12)
    expect_layer(notebook, 12, feature=17)
    assert hub.requests.count("GET google/gemma-2b model.safetensors") == fetched


def test_the_same_cell_works_from_the_cache_with_the_hub_gone(
    notebook: NotebookPage, hub: Hub
) -> None:
    hub.stop()
    asked = len(hub.requests)
    notebook.run(0)
    expect_layer(notebook, 12)
    choose(notebook, 6)
    expect_layer(notebook, 6)
    assert len(hub.requests) == asked
