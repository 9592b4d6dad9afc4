import { act } from "preact/test-utils";
import { afterEach, describe, expect, test } from "vitest";
import { numbers } from "../../js/src/state/columns.ts";
import { TreeData } from "../../js/src/state/tree.ts";
import { click, lensPayload, type Shown, show } from "./explorer.tsx";
import { DONE, LOOP } from "./findings.ts";
import { column, END_ID, type Node, ROOT, treePayload } from "./model.ts";

const NODES: Node[] = [
  ROOT,
  { parent: 0, text: " a", p: 0.6 },
  { parent: 1, text: " dog", p: 0.9 },
  { parent: 2, text: '",', p: 0.8 },
  // Behind an answer that is complete: no answer of its own.
  { parent: 3, text: " and", p: 0.9 },
  { parent: 0, text: " pet", p: 0.3 },
  { parent: 5, text: "</s>", p: 0.9, id: END_ID },
  { parent: 1, text: " cat", p: 0.1, expanded: false },
];
const LIFT = [0, 1, 2, 0.5, 0.5, 3, 4, -1];

let shown: Shown | null = null;
afterEach(() => {
  shown?.close();
  shown = null;
});

const lines = () =>
  [...(shown as Shown).el.querySelectorAll(".sae-gist-line > div")].map((line) =>
    [...line.children].map((one) => one.textContent),
  );

describe("the answer in a line", () => {
  test("definitions end where the quotation does, the text does, or the tree does", () => {
    const tree = TreeData.from(treePayload(NODES));
    expect(tree.definitions(9)).toEqual([
      { row: 3, text: "a dog" },
      { row: 6, text: "pet" },
      { row: 7, text: "a cat…" },
    ]);
    expect(tree.definitions(1)).toEqual([{ row: 3, text: "a dog" }]);
    expect(tree.definitions(2, LIFT).map(({ row }) => row)).toEqual([6, 3]);
    // What was not measured comes last.
    const some = LIFT.map((lift, row) => (row === 6 ? Number.NaN : lift));
    expect(tree.definitions(9, some).map(({ row }) => row)).toEqual([3, 7, 6]);
  });

  test("is what is most probable, and what the feature raises", async () => {
    shown = await show({ _tree: treePayload(NODES) });
    expect(lines()[0]).toEqual(["a dog43.2 %", "pet27.0 %", "a cat…6.00 %"]);
    const lens = lensPayload();
    const raised = lens.text.filter(
      (_, row) => lens.lens[row] === "normalised" && lens.side[row] === "top",
    );
    expect(raised.length).toBe(numbers(lens.logit).length / 4);
    expect(lines()[1].map((text) => text?.replaceAll("␣", " "))).toEqual(raised);
  });

  test("says what is said by lift and what the feature fires on, once they are measured", async () => {
    const definitions = [
      { text: "a dog", probability: 0.43, activation: 0, row: 3, complete: true },
      { text: "pet", probability: 0.27, activation: 2.5, row: 6, complete: true },
    ];
    shown = await show({
      _tree: treePayload(NODES, { lift: column("<f4", LIFT) }),
      _loop: { ...LOOP, definitions },
      _jobs: { loop: DONE },
    });
    expect(lines()[2]).toEqual(["pet+4.0", "a dog+0.5", "a cat…−1.0"]);
    expect(lines()[3]).toEqual(["pet2.50"]);
    const silent = definitions.map((one) => ({ ...one, activation: 0 }));
    await act(async () => shown?.model.set("_loop", { ...LOOP, definitions: silent }));
    expect(lines()[3]).toEqual(["none of its 2 definitions"]);
  });

  test("leads to the place in the tree", async () => {
    shown = await show({ _tree: treePayload(NODES) });
    await click(shown.button("pet"));
    const chosen = shown.find('[role="treeitem"][aria-selected="true"]');
    expect(chosen.textContent).toContain("pet");
  });

  test("leads there also where the place was hidden", async () => {
    shown = await show({ _tree: treePayload([...NODES, { parent: 0, text: '"', p: 0.05 }]) });
    const words = [...shown.el.querySelectorAll("label")].find(
      ({ textContent }) => textContent === "Hide quotes",
    );
    await click(words?.querySelector("input") as HTMLInputElement);
    await click(shown.button("(empty)"));
    expect(shown.find('[role="treeitem"][aria-selected="true"]').textContent).toContain('"');
  });

  test("says nothing of what another feature raises", async () => {
    const tree = treePayload(NODES);
    shown = await show({ _tree: { ...tree, request: { ...tree.request, feature: 8 } } });
    expect(lines().length).toBe(1);
  });

  test("is not there before there is an answer", async () => {
    shown = await show({ _tree: treePayload([ROOT]) });
    expect(shown.el.querySelector(".sae-gist")).toBeNull();
  });
});
