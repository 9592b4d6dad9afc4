import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { CONTROLS, choose, click, type Shown, show, VALUES, write } from "./explorer.tsx";
import { DIFFERENCE, DONE, INTERVENTIONS, option } from "./findings.ts";
import { column } from "./model.ts";

const STATE = {
  _controls: [...CONTROLS, option("against", "difference", "str", "plain")],
  _values: { ...VALUES, against: "plain", interventions: INTERVENTIONS },
};
const open = (more: Record<string, unknown> = {}) =>
  show({ ...STATE, _difference: DIFFERENCE, _jobs: { difference: DONE }, ...more });

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  vi.useRealTimers();
});
const panel = () =>
  [...shown.el.querySelectorAll<HTMLElement>(".sae-requested")].find((element) =>
    element.querySelector(".sae-against, .sae-fates"),
  ) as HTMLElement;
const line = (row: number) => panel().querySelector<HTMLElement>(`[data-row="${row}"]`);
const rows = () =>
  [...panel().querySelectorAll<HTMLElement>("[role=treeitem]")]
    .map((element) => [
      Number(/-?\d+/.exec(element.style.transform)?.[0]),
      Number(element.dataset.row),
    ])
    .sort(([one], [other]) => one - other)
    .map(([, row]) => row);
const fate = (word: string) =>
  [...panel().querySelectorAll<HTMLButtonElement>(".sae-fates button")].find(({ textContent }) =>
    textContent?.includes(word),
  ) as HTMLButtonElement;
const wanted = () => shown.asked("set").map(({ values }) => values);

describe("two trees", () => {
  test("are one outline with both probabilities and what became of each node", async () => {
    shown = await open();
    const text = (row: number) => line(row)?.textContent;
    expect(text(1)).toContain("A 50.0 %, B 25.0 %, change ▼ ÷2");
    expect(text(2)).toContain("A 10.0 %, B 25.0 %, change ▲ ×2.5");
    expect(text(3)).toContain("A 12.5 %, B –, change ◁ only A");
    expect(text(4)).toContain("A 10.0 %, B 10.0 %, change =");
    expect(text(5)).toContain("␣barking, A –, B 5.00 %, change ▷ only B");
  });

  test("tell what fell below the cutoff from what is not known", async () => {
    const exact = { exact_two: column("<f4", [1, 0.25, 0.25, 0.00002, 0.1, 0.05]) };
    shown = await open({ _difference: { ...DIFFERENCE, ...exact } });
    expect(line(3)?.textContent).toContain("A 12.5 %, B (0.0020 %), change ◁ only A");
    expect(line(5)?.textContent).toContain("A –, B 5.00 %, change ▷ only B");
  });

  test("tell their names, and hostile ones are text", async () => {
    shown = await open();
    expect(panel().querySelector(".sae-names")?.textContent).toContain("A weights encoder");
    expect(shown.el.querySelector("img")).toBeNull();
    expect(panel().textContent).toContain("<U+202E>");
  });

  test("are filtered by what became of the nodes, whose number the buttons say", async () => {
    shown = await open();
    const counts = [...panel().querySelectorAll(".sae-fates .sae-muted")].map(
      ({ textContent }) => textContent,
    );
    expect(counts).toEqual(["1", "1", "1", "1", "1"]);
    await click(fate("only in B"));
    // With what leads there.
    expect(rows()).toEqual([0, 2, 5]);
    await click(fate("only in A"));
    expect(rows()).toEqual([0, 2, 5, 3]);
    await click(fate("only in A"));
    await click(fate("only in B"));
    expect(rows().length).toBe(6);
  });

  test("are sorted by change on request", async () => {
    const two = column("<f4", [1, 0.45, 0.25, -1, 0.1, 0.05]);
    shown = await open({ _difference: { ...DIFFERENCE, two } });
    expect(rows()).toEqual([0, 1, 4, 2, 5, 3]);
    const box = [...panel().querySelectorAll("label")].find(({ textContent }) =>
      textContent?.includes("Sort by change"),
    );
    await choose(box?.querySelector("input") as HTMLInputElement);
    // By 0.15, 0.125 and 0.05.
    expect(rows()).toEqual([0, 2, 5, 3, 1, 4]);
  });

  test("leave the tree's own selection and folds alone", async () => {
    shown = await open();
    await click(line(2) as HTMLElement);
    expect(panel().querySelector(".sae-selected")?.textContent).toContain("A10.0 %");
    const tree = [...shown.el.querySelectorAll(".sae-selected")].find(
      (element) => !panel().contains(element),
    );
    expect(tree?.textContent).toContain("No node is selected");
  });
});

describe("what is compared", () => {
  const against = () =>
    panel().querySelector<HTMLSelectElement>(".sae-against select") as HTMLSelectElement;
  const entry = () =>
    panel().querySelector<HTMLInputElement>(".sae-against input") as HTMLInputElement;

  test("is the plain tree, and without interventions that is said to be none", async () => {
    shown = await open({ _values: { ...STATE._values, interventions: [] } });
    expect(against().value).toBe("plain");
    expect(panel().textContent).toContain("There are no interventions");
  });

  test("with other weights takes the other ones at once", async () => {
    shown = await open();
    await choose(against(), "weights");
    expect(wanted()).toEqual([{ against: "weights=decoder" }]);
  });

  test.each([
    ["feature", "17", "feature=17"],
    ["scale", "2.50", "scale=2.5"],
    ["", "top_k=10", "top_k=10"],
  ])("with another %s waits for its value", async (word, text, expected) => {
    shown = await open();
    await choose(against(), word);
    expect(wanted()).toEqual([]);
    await write(entry(), "x", "Enter");
    expect(entry().getAttribute("aria-invalid")).toBe("true");
    await write(entry(), text, "Enter");
    expect(wanted()).toEqual([{ against: expected }]);
  });

  test("shows what the kernel holds", async () => {
    shown = await open({ _values: { ...STATE._values, against: "feature=288" } });
    expect([against().value, entry().value]).toEqual(["feature", "288"]);
    await act(async () => shown.model.set("_values", { ...STATE._values, against: "top_k=9" }));
    expect([against().value, entry().value]).toEqual(["", "top_k=9"]);
  });
});

test("before it was asked for, it says what it answers", async () => {
  shown = await open({ _difference: null, _jobs: {} });
  expect(panel().textContent).toContain("which definitions appear, vanish, gain and lose");
});
