"""Hundreds of changes in one kernel and one page: nothing is lost, and nothing grows."""

from __future__ import annotations

import json
import random
import re
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from hosts.asking import MODEL, python
from hosts.jupyterlab import opened, running, written
from hosts.page import photograph, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, CDPSession

    from hosts.jupyterlab import NotebookPage

CHANGES = 200
#: The changes whose medians are compared: after everything has been used, and in the end.
WARM, LAST = range(40, 60, 4), range(CHANGES - 20, CHANGES, 4)
#: By how much memory may have grown between them.
GROWTH = 1.10
#: Of so many changes one is followed by an analysis, and one is made in Python.
ANALYSED, FROM_PYTHON = 10, 4
#: Seconds of each forward while a tree is to be cancelled.
SLOW = 0.15

MAKE = f"""\
import gc, json
{MODEL}
explorer = FeatureExplorer(
    302, subject=subject, cutoff=2e-4, text="I went to the", max_tokens=4, strengths=(1.0,),
    **DIRECTION,
)
explorer"""
REPORT = """\
tree = explorer.tree
print(json.dumps({
    "feature": explorer.feature, "label": tree.request.label, "nodes": len(tree),
    "status": tree.status, "state": explorer.status.state, "error": explorer.status.error,
    "about": explorer.tokens.request.feature,
}))"""
READY = "print(explorer.tree.request.feature == {feature} and explorer.status.state == 'done')"
MEMORY = """\
import ctypes, gc
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # what is free, but lies between what is not
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmRSS")).split()[1])"""


@pytest.fixture
def notebook(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """Return a notebook that shows an explorer."""
    with (
        running(tmp_path_factory.mktemp("jupyterlab")) as lab,
        opened(lab, browser, written(lab, [MAKE], "soak.ipynb")) as notebook,
    ):
        yield notebook


class Memory:
    """What a kernel and a page hold, once what they have dropped is gone."""

    def __init__(self, notebook: NotebookPage) -> None:
        self._notebook = notebook
        self._page: CDPSession = notebook.page.context.new_cdp_session(notebook.page)
        self._page.send("Performance.enable")
        self.taken: dict[str, list[float]] = {}

    def take(self) -> None:
        """Measure once."""
        kernel = float(python(self._notebook, MEMORY)) / 1024
        for _ in range(2):  # what was held by what went the first time
            self._page.send("HeapProfiler.collectGarbage")
        found = {
            m["name"]: m["value"] for m in self._page.send("Performance.getMetrics")["metrics"]
        }
        for name, value in {
            "kernel, MiB": kernel,
            "page, MiB": found["JSHeapUsedSize"] / 2**20,
            "elements": found["Nodes"],
            "listeners": found["JSEventListeners"],
        }.items():
            self.taken.setdefault(name, []).append(value)


def shown(notebook: NotebookPage) -> dict[str, Any]:
    """Return what the page says of the tree."""
    chip = notebook.status.locator(".sae-chip")
    return {
        "nodes": notebook.nodes(),
        "state": chip.get_attribute("data-state"),
        "feature": int(
            notebook.widget.get_by_role("textbox", name="Feature to show").input_value()
        ),
    }


def change(notebook: NotebookPage, feature: int, *, from_python: bool, cancel: bool) -> None:
    """Look at another feature, as far as Cancel lets it come."""
    pause = f"pause = {SLOW if cancel else 0.0}"
    if from_python:
        python(notebook, f"{pause}; explorer.feature = {feature}")
    else:
        python(notebook, pause)
        notebook.enter("Feature to show", str(feature))
    if cancel:
        # Rows of the new tree are there before the whole of it.
        tree = notebook.widget.get_by_role("tree")
        notebook.until(lambda: f"feature {feature}" in (tree.get_attribute("aria-label") or ""))
        # A small tree may be whole before.
        notebook.widget.locator(".sae-app").press("Escape")
        expect(notebook.status.locator(".sae-chip")).to_have_attribute(
            "data-state", re.compile("partial|done"), timeout=60_000
        )
    else:
        notebook.until(lambda: python(notebook, READY.format(feature=feature)) == "True")
        state(notebook, "done")


def analyse(notebook: NotebookPage) -> None:
    """Run an analysis on request, in its panel."""
    notebook.widget.get_by_role("tab", name="Steering").click()
    panel = notebook.widget.get_by_role("tabpanel", name="Steering")
    panel.get_by_role("button", name="Run").click()
    expect(panel.locator(".sae-run")).to_have_attribute("data-state", "done", timeout=60_000)
    notebook.widget.get_by_role("tab").first.click()


def test_two_hundred_changes_lose_nothing_and_leave_nothing_behind(
    notebook: NotebookPage, record_property: Callable[[str, object], None]
) -> None:
    notebook.run(0)
    state(notebook, "done")
    memory = Memory(notebook)
    features = random.Random(0).sample(range(1536), CHANGES)
    cancelled = 0
    for at, feature in enumerate(features):
        cancel = at % 2 == 1
        change(notebook, feature, from_python=at % FROM_PYTHON == 0, cancel=cancel)
        has = json.loads(python(notebook, REPORT))
        assert has["error"] is None
        assert has["feature"] == has["about"] == feature, at
        assert has["label"] == f"feature {feature}", at
        expected = {name: has[name] for name in ("nodes", "state", "feature")}
        # What Python says may be heard here before the widget has drawn it.
        notebook.until(lambda: shown(notebook) == expected)  # noqa: B023 - called at once
        cancelled += has["status"] == "partial"
        if at % ANALYSED == ANALYSED - 2:
            analyse(notebook)
        if at in WARM or at in LAST:
            memory.take()
    photograph(notebook, "soak")
    ratios = {}
    for name, taken in memory.taken.items():
        before, after = median(taken[: len(WARM)]), median(taken[len(WARM) :])
        ratios[name] = after / before
        row = {
            f"{CHANGES} changes, {cancelled} cancelled while the tree grew": name,
            f"after {WARM[len(WARM) // 2]}": f"{before:,.1f}",
            "in the end": f"{after:,.1f}",
            "growth": f"{ratios[name] - 1:+.1%}",
        }
        record_property("soak", row)
    assert cancelled > CHANGES // 3
    assert {name: ratio for name, ratio in ratios.items() if ratio > GROWTH} == {}
