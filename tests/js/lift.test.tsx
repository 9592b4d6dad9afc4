import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { show, TreeData } from "../../js/src/state/tree.ts";
import { svgOf } from "../../js/src/ui/picture.ts";
import { choose } from "./explorer.tsx";
import { DONE, LIFT, LOOP, liftedTree, NODES } from "./findings.ts";
import { column, ROOT, randomTree, treePayload } from "./model.ts";
import { type Panel, panel } from "./tree_panel.tsx";

const STATUS = { state: "done", nodes: 6 };

let own: Panel;
const line = (row: number) => own.root.querySelector<HTMLElement>(`[data-row="${row}"]`);
const token = (row: number) => line(row)?.querySelector<HTMLElement>(".sae-node-token");
const rows = () =>
  [...own.root.querySelectorAll<HTMLElement>("[role=treeitem]")]
    .map((element) => [
      Number(/-?\d+/.exec(element.style.transform)?.[0]),
      Number(element.dataset.row),
    ])
    .sort(([one], [other]) => one - other)
    .map(([, row]) => row);
const heads = () =>
  [...own.root.querySelectorAll(".sae-outline-head > span")].map(({ textContent }) => textContent);
const find = <T extends HTMLElement>(selector: string) => own.root.querySelector<T>(selector) as T;
const colours = () => find<HTMLSelectElement>("[aria-label='Colour by']");
const byLift = () =>
  [...own.root.querySelectorAll("label")]
    .find((label) => label.textContent?.includes("Sort by lift"))
    ?.querySelector("input") as HTMLInputElement;

describe("a tree with lift", () => {
  beforeEach(async () => {
    own = await panel({ _tree: liftedTree() });
  });
  afterEach(() => own.close());

  test("shows it beside the probabilities, which stay", () => {
    expect(heads()).toEqual([
      "token",
      "log barP of path",
      "p of token",
      "lift",
      "definition so far",
    ]);
    expect(line(5)?.textContent).toBe(
      "␣barking, P of path 5.00 %, p of token 20.0 %, lift +3.00the barking",
    );
    expect(line(1)?.textContent).toContain(", lift −0.50");
  });

  test("is coloured on request, more and less told apart by more than the colour", async () => {
    expect(token(5)?.dataset.tone).toBeUndefined();
    const missing = [...colours().options].filter(({ disabled }) => disabled);
    expect(missing.map(({ value }) => value)).toEqual(["activation"]);
    await choose(colours(), "lift");
    expect([1, 2, 3, 4, 5].map((row) => token(row)?.dataset.tone)).toEqual([
      "less",
      "more",
      "more",
      "less",
      "more",
    ]);
    expect(token(5)?.style.getPropertyValue("--sae-tone")).toBe("1");
    expect(find(".sae-tones").textContent).toBe("−3.0+3.0");
  });

  test("says the figure of the selected node and of the one pointed at", async () => {
    await own.do(() => {
      own.explorer.local.selected.value = 5;
      own.explorer.local.toggled.value = new Map([[2, true]]);
    });
    expect(find(".sae-selected").textContent).toContain("lift+3.00");
    vi.useFakeTimers();
    line(5)?.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }));
    await own.do(() => vi.advanceTimersByTime(300));
    vi.useRealTimers();
    expect(find(".sae-card").textContent).toContain("lift+3.00");
  });

  test("sorts siblings by it, and the keys follow", async () => {
    expect(rows()).toEqual([0, 1, 4, 2, 5, 3]);
    await choose(byLift());
    expect(rows()).toEqual([0, 3, 2, 5, 1, 4]);
    own.focus("[tabindex='0'][role=treeitem]");
    for (const key of ["Home", "ArrowRight"]) await own.press(key);
    expect(own.explorer.local.selected.value).toBe(3);
    expect(line(3)?.getAttribute("aria-posinset")).toBe("1");
  });

  test("hides what has less, but not what leads to more", async () => {
    const { leastLift } = own.explorer.local;
    await own.do(() => {
      leastLift.value = 2;
    });
    // 0.25 at " the" is on the way to 3 at " barking".
    expect(rows()).toEqual([0, 2, 5]);
    expect(find(".sae-left").textContent).toBe("3 of 6 nodes");
    const slider = find<HTMLInputElement>("[aria-label='Hide lift below']");
    expect(slider.getAttribute("aria-valuetext")).toBe("+2.0");
    await own.do(() => {
      slider.value = "0";
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    });
    expect(leastLift.value).toBeNull();
    expect(rows().length).toBe(6);
  });

  test("keeps it in view of another tree that has none, and takes it up again", async () => {
    await choose(colours(), "lift");
    await choose(byLift());
    await own.do(() => own.model.set("_tree", treePayload(NODES, { run: 2 })));
    expect(heads()).toEqual(["token", "log barP of path", "p of token", "definition so far"]);
    expect(colours()).toBeNull();
    expect(rows()).toEqual([0, 1, 4, 2, 5, 3]);
    await own.do(() => own.model.set("_tree", liftedTree(3)));
    expect(colours().value).toBe("lift");
    expect(rows()).toEqual([0, 3, 2, 5, 1, 4]);
  });
});

describe("a tree without lift", () => {
  beforeEach(async () => {
    own = await panel({ _tree: treePayload(NODES) });
  });
  afterEach(() => own.close());

  test("offers no colours, and says how to get some", async () => {
    expect(colours()).toBeNull();
    const help = find(".sae-explained");
    expect(help.hidden).toBe(true);
    await own.do(() => find("[aria-label='What do the columns say?']").click());
    expect(help.hidden).toBe(false);
    expect(help.textContent).toContain("set Lift in the controls, 8 random directions");
  });
});

describe("activations of the closed loop", () => {
  afterEach(() => own.close());
  const state = { _tree: liftedTree(), _loop: LOOP, _status: STATUS };

  test("colour the tree that they are of", async () => {
    own = await panel({ ...state, _jobs: { loop: DONE } });
    await choose(colours(), "activation");
    expect(heads()).toContain("act.");
    expect(token(4)?.dataset.tone).toBe("more");
    // Of a node that was not run, nothing is said.
    expect(token(5)?.dataset.tone).toBeUndefined();
    expect(line(5)?.textContent).toContain("–");
    expect(find(".sae-tones").textContent).toBe("04");
  });

  test.each([
    ["from before the last change", { _jobs: { loop: { ...DONE, state: "stale" } } }],
    ["of a tree of another size", { _loop: { ...LOOP, nodes: column("<f4", [0, 1]) } }],
    ["of a tree that is growing", { _status: { ...STATUS, state: "growing" } }],
  ])("%s are not shown", async (_, more) => {
    own = await panel({ ...state, ...more });
    expect(heads()).not.toContain("act.");
  });
});

describe("columns", () => {
  test("lift grows with the tree", () => {
    const nodes = NODES.map((node) => ({ ...node }));
    const lift = (from: number, to: number) => column("<f4", LIFT.slice(from, to), 2);
    const half = TreeData.from(treePayload(nodes, { stop: 3, settled: 2, lift: lift(0, 3) }));
    const whole = half.append(treePayload(nodes, { first: 2, lift: lift(2, 6) }));
    expect([...(whole.lift as Float32Array)]).toEqual(LIFT);
    expect([...(half.lift as Float32Array)]).toEqual(LIFT.slice(0, 3));
    expect(half.append(treePayload(nodes, { first: 2 })).lift).toBeNull();
  });

  test("an order or a filter of 50,000 nodes is worked out in a moment, and parents stay before", () => {
    const tree = TreeData.from(treePayload(randomTree(3, 50_000, [" a", " b", " c"])));
    const order = Float32Array.from({ length: tree.count }, (_, row) => Math.sin(row));
    const choice = { openAbove: 0, toggled: new Map(), trim: 0, quiet: false };
    const begun = performance.now();
    const { rows: read, size } = show(tree, { ...choice, order, keep: (row) => order[row] > 0.9 });
    expect(performance.now() - begun).toBeLessThan(2000);
    const place = new Map([...read].map((row, at) => [row, at]));
    for (const row of read.subarray(1)) {
      expect(place.get(tree.parent[row]) as number).toBeLessThan(place.get(row) as number);
    }
    const kept = (row: number): boolean =>
      order[row] > 0.9 ||
      [...read].some(
        (below) => below !== row && tree.path(below).includes(row) && order[below] > 0.9,
      );
    for (const row of [...read.subarray(1)].slice(0, 20)) expect(kept(row)).toBe(true);
    expect(size[0]).toBe(read.length);
  });

  test("what is no number is read last", () => {
    const tree = TreeData.from(
      treePayload([ROOT, ...[0.5, 0.3, 0.1].map((p) => ({ parent: 0, text: ` ${p}`, p }))]),
    );
    const order = [0, Number.NaN, -1, 4];
    const choice = { openAbove: 0, toggled: new Map(), trim: 0, quiet: false };
    expect([...show(tree, { ...choice, order }).rows]).toEqual([0, 3, 2, 1]);
  });
});

test("the picture has the colours of the diagram", () => {
  const tree = TreeData.from(liftedTree());
  const choice = { openAbove: 0, toggled: new Map(), trim: 0, quiet: false };
  const tone = (row: number) => LIFT[row] / 3;
  const coloured = svgOf(show(tree, choice), { selected: -1, found: new Set(), tone });
  expect(coloured.match(/fill="#0063a3" fill-opacity/g)?.length).toBe(3);
  // Less is ruled as well as coloured.
  expect(coloured.match(/fill="#b35c00"/g)?.length).toBe(4);
  expect(svgOf(show(tree, choice))).not.toContain("fill-opacity");
});
