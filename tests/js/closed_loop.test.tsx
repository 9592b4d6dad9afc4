import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { click, type Shown, STATUS, show } from "./explorer.tsx";
import { DONE, LOOP, liftedTree } from "./findings.ts";

const open = (more: Record<string, unknown> = {}) =>
  show({
    _tree: liftedTree(),
    _loop: LOOP,
    _jobs: { loop: DONE },
    _status: { ...STATUS, nodes: 6 },
    ...more,
  });

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  vi.useRealTimers();
});
const cells = () =>
  [...shown.el.querySelectorAll(".sae-loop tbody tr")].map((row) =>
    [...row.querySelectorAll("td")].map(({ textContent }) => textContent),
  );
const score = () => shown.find(".sae-score").textContent;

test("the score is said in words, with its interval and what is chance", async () => {
  shown = await open();
  expect(score()).toContain("0.83 AUROC, 95 % interval 0.71 to 0.92; 0.5 is chance.");
  expect(shown.find(".sae-score-range").style.left).toBe("70.8%");
  await act(async () => shown.model.set("_loop", { ...LOOP, low: 0.4 }));
  expect(score()).toContain("It may be chance.");
  await act(async () => shown.model.set("_loop", { ...LOOP, score: null, low: null, high: null }));
  expect(score()).toContain("There is no score");
});

test("definitions stand with P and activation, and sort by any of them", async () => {
  shown = await open();
  expect(cells()).toEqual([
    ["the barking …", "5.00 %", "6.25"],
    ["a dog", "10.0 %", "4.00"],
    ["</script><img src=x onerror=alert(1)><U+202E> …", "12.5 %", "0.50"],
  ]);
  expect(shown.el.querySelector("img")).toBeNull();
  const head = [...shown.el.querySelectorAll<HTMLElement>(".sae-loop th button")].find(
    ({ textContent }) => textContent?.startsWith("activation"),
  ) as HTMLElement;
  await click(head);
  expect(cells().map(([, , activation]) => activation)).toEqual(["0.50", "4.00", "6.25"]);
});

test("the activations of both kinds can be compared without seeing them", async () => {
  shown = await open();
  expect(shown.find(".sae-spread svg").getAttribute("aria-label")).toBe(
    "Median activation 4.00 for the tree's definitions, 0.50 for those of random directions",
  );
  // Bars of the tree's definitions have together their whole height, as those of chance have.
  const heights = (kind: string) =>
    [...shown.el.querySelectorAll(`.sae-spread rect.${kind}`)].reduce(
      (sum, bar) => sum + Number(bar.getAttribute("height")),
      0,
    );
  expect(heights("sae-own")).toBeCloseTo(heights("sae-chance"));
});

describe("the button that colours the tree", () => {
  test("shows the activations in the tree", async () => {
    shown = await open();
    await click(shown.button("Colour the tree"));
    expect(shown.named("Colour by").value).toBe("activation");
    expect(shown.find("[data-row='4'] [data-tone]").dataset.tone).toBe("more");
  });

  test("is out of reach where the tree is another one", async () => {
    shown = await open({ _jobs: { loop: { ...DONE, state: "stale" } } });
    expect(shown.button("Colour the tree").disabled).toBe(true);
  });
});

test("before it was asked for, it says what it answers", async () => {
  shown = await open({ _loop: null, _jobs: {} });
  expect(shown.el.textContent).toContain("how strongly the feature answers to it");
});

test("a run without definitions is no error", async () => {
  const none = { ...LOOP, definitions: [], random: [], score: null, low: null, high: null };
  shown = await open({ _loop: { ...none, status: "partial" } });
  expect(shown.el.textContent).toContain("The tree has no definition that could be read.");
});
