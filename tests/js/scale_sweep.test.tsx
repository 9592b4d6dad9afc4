import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { click, press, type Shown, show, VALUES } from "./explorer.tsx";
import { DONE, HOSTILE, SCALES } from "./findings.ts";
import { ROOT, treePayload } from "./model.ts";

const open = (more: Record<string, unknown> = {}) =>
  show({ _scales: SCALES, _jobs: { scales: DONE }, _values: { ...VALUES, scale: 1 }, ...more });

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  vi.useRealTimers();
});
const chart = () => shown.named<HTMLElement>("Composite by scale");
const answer = () => shown.find(".sae-answer").textContent;
const wanted = () => shown.asked("set").map(({ values }) => values);

test("the best scale is where one begins, marked beside the one in use", async () => {
  shown = await open();
  expect(answer()).toContain("Scale 4, the best");
  expect(shown.find(".sae-sweep").textContent).toContain("in use");
  expect(shown.el.querySelectorAll(".sae-sweep .sae-chart").length).toBe(3);
  expect(chart().getAttribute("aria-valuetext")).toBe(
    `scale 4, Composite 0.2, Self-similarity 0.7, Cross-entropy 4, answer ${HOSTILE.slice(0, -1)}<U+202E>`,
  );
  expect(shown.el.querySelector("img")).toBeNull();
});

test("what is to be known of the best scale stands beside its answer alone", async () => {
  const caveat = "The best is at the end.";
  shown = await open({ _scales: { ...SCALES, caveat } });
  expect(answer()).toContain(caveat);
  expect(chart().getAttribute("aria-valuetext")).toContain(caveat);
  await press(chart(), "ArrowLeft");
  expect(answer()).not.toContain(caveat);
  expect(chart().getAttribute("aria-valuetext")).not.toContain(caveat);
});

test("keys go from point to point, and Enter takes the scale", async () => {
  shown = await open();
  await press(chart(), "ArrowLeft");
  expect(answer()).toContain("Scale 2");
  expect(answer()).toContain("a dog");
  await press(chart(), "Enter");
  expect(wanted()).toEqual([{ scale: 2 }]);
});

test("a button does the same, but for the one in use", async () => {
  shown = await open();
  await click(shown.button("Use scale 4"));
  expect(wanted()).toEqual([{ scale: 4 }]);
  await press(chart(), "Home");
  expect(answer()).toContain("in use");
  expect(shown.button("Use scale 1").getAttribute("aria-disabled")).toBe("true");
});

test("a sweep with fewer points moves the rule to the last of them", async () => {
  shown = await open();
  await press(chart(), "End");
  const fewer = {
    ...SCALES,
    scale: [1, 2],
    self_similarity: [0.1, 0.2],
    cross_entropy: [3, 2],
    composite: [-0.6, 0.4],
    best: 1,
    answers: ["a", "b"],
  };
  await act(async () => shown.model.set("_scales", fewer));
  expect(answer()).toContain("Scale 2, the best");
});

test("a saved copy is read, and sets nothing", async () => {
  shown = await open({ _saved: true });
  await press(chart(), "ArrowLeft");
  await press(chart(), "Enter");
  expect(answer()).toContain("a dog");
  expect(wanted()).toEqual([]);
});

test("the scale in use is the tree's where the kernel chooses it", async () => {
  const tree = treePayload([ROOT], { request: { scale: "auto" }, scale: 1 });
  shown = await open({ _values: { ...VALUES, scale: "auto" }, _tree: tree });
  expect(answer()).toContain("Scale 4, the best");
  expect(answer()).not.toContain("in use");
  await press(chart(), "Home");
  expect(answer()).toContain("in use");
});

describe("the automatic scale", () => {
  const auto = () => shown.find<HTMLButtonElement>("[data-option=scale] [aria-pressed]");
  const box = () => shown.find<HTMLInputElement>("[data-option=scale] input[type=text]");

  test("is chosen and left with one press", async () => {
    shown = await open();
    await click(auto());
    expect(wanted()).toEqual([{ scale: "auto" }]);
    await act(async () => shown.model.set("_values", { ...VALUES, scale: "auto" }));
    await vi.advanceTimersByTimeAsync(200);
    await click(auto());
    expect(wanted().at(-1)).toEqual({ scale: null });
  });

  test("shows the number that the tree was grown with", async () => {
    const tree = treePayload([ROOT], { request: { scale: "auto" }, scale: 4.25 });
    shown = await open({ _values: { ...VALUES, scale: "auto" }, _tree: tree });
    expect(auto().getAttribute("aria-pressed")).toBe("true");
    expect([box().value, box().placeholder]).toEqual(["", "4.25"]);
    // While no tree tells, there is no number.
    await act(async () => shown.model.set("_tree", treePayload([ROOT])));
    expect(box().placeholder).toBe("");
  });
});
