import { describe, expect, test } from "vitest";
import type { TreePayload } from "../../js/src/state/protocol.ts";
import { connect } from "../../js/src/state/synced.ts";
import { type Choice, childrenOf, inOrder, show, TreeData } from "../../js/src/state/tree.ts";
import { joinTokens } from "../../js/src/text.ts";
import { ROW as LEAF, layoutOf, nodeAt } from "../../js/src/ui/layout.ts";
import { svgOf } from "../../js/src/ui/picture.ts";
import { END_ID, fakeModel, type Node, ROOT, randomTree, seeded, treePayload } from "./model.ts";

const WORDS = [
  " a",
  " kind",
  " of",
  "ing",
  '"',
  "",
  " ",
  " Vehicle",
  "s",
  " the",
  ".",
  " Ka",
  "<0xC3>",
  "<0xA9>",
];
const ALL: Choice = { openAbove: 0, toggled: new Map(), trim: 0, quiet: false };

const columnsOf = (tree: TreeData) =>
  Array.from({ length: tree.count }, (_, row) => ({
    parent: tree.parent[row],
    text: tree.tokenText(row),
    id: tree.tokenId(row),
    p: tree.probability[row],
    P: tree.cumulative[row],
    depth: tree.depth[row],
    children: childrenOf(show(tree, ALL), row),
  }));

/** The tree node by node, as objects. */
function naive(nodes: Node[], choice: Choice, first: number) {
  const P: number[] = [];
  for (const [row, { parent, p }] of nodes.entries()) P[row] = row ? P[parent] * Math.fround(p) : 1;
  const quiet = (row: number) => row > 0 && /^[\s"]*$/.test(nodes[row].text);
  const children = (row: number): number[] =>
    nodes.flatMap(({ parent }, child) => {
      const hidden = P[child] < choice.trim || (choice.quiet && quiet(child));
      return parent === row && !hidden ? [child] : [];
    });
  const open = (row: number) =>
    choice.toggled.get(row) ??
    (row === 0 || (choice.openAbove === null ? row < first : P[row] >= choice.openAbove));
  const rows: number[] = [];
  const visit = (row: number) => {
    rows.push(row);
    if (open(row)) children(row).forEach(visit);
  };
  visit(0);
  const size = (row: number): number => 1 + children(row).reduce((sum, one) => sum + size(one), 0);
  return { rows, size, P, children };
}

describe("columns", () => {
  const nodes = randomTree(3, 400, WORDS);

  test.each([0, 1, 2, 3, 5, 7])("are read %d bytes into their buffer", (offset) => {
    const tree = TreeData.from(treePayload(nodes, { offset }));
    expect(columnsOf(tree).map(({ parent, text }) => [parent, text])).toEqual(
      nodes.map(({ parent, text }) => [parent, text]),
    );
  });

  test.each([1, 7, 64, 399])("appended %d at a time equal the whole", (step) => {
    let tree = TreeData.from(treePayload(nodes, { stop: 1 }));
    for (let first = 1; first < nodes.length; first += step) {
      const stop = Math.min(first + step, nodes.length);
      const before = tree;
      // Half of what is sent is known.
      tree = tree.append(treePayload(nodes, { first: Math.max(0, first - step), stop }));
      expect(tree).not.toBe(before);
      expect(before.count).toBe(first);
    }
    expect(columnsOf(tree)).toEqual(columnsOf(TreeData.from(treePayload(nodes))));
  });

  test("are the most probable first, whatever float32 made of them", () => {
    const tree = TreeData.from(treePayload(nodes));
    for (let row = 1; row < tree.count; row += 1) {
      expect(tree.cumulative[row]).toBeLessThanOrEqual(tree.cumulative[row - 1]);
    }
    expect(tree.above(tree.cumulative[50])).toBeGreaterThan(50);
    expect(tree.above(1)).toBe(1);
    expect(tree.above(0)).toBe(tree.count);
  });

  test("of a longer tree do not reach into a shorter one", () => {
    const short = TreeData.from(treePayload(nodes, { stop: 50 }));
    short.append(treePayload(nodes, { first: 50 }));
    const { rows } = show(short, ALL);
    expect([...rows].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, row) => row));
    expect(childrenOf(show(short, ALL), 0).every((row) => row < 50)).toBe(true);
  });
});

describe("rows that are not settled", () => {
  // What is found later, " the" and what follows " a", comes between the rows of before.
  const before = [
    ROOT,
    { parent: 0, text: " a", id: 10, p: 0.5 },
    { parent: 1, text: " dog", id: 11, p: 0.4, expanded: false },
    { parent: 1, text: " cat", id: 12, p: 0.2, expanded: false },
  ];
  const after = [
    ROOT,
    { parent: 0, text: " a", id: 10, p: 0.5 },
    { parent: 0, text: " the", id: 13, p: 0.4 },
    { parent: 1, text: " dog", id: 11, p: 0.4 },
    { parent: 3, text: " that", id: 14, p: 0.9, expanded: false },
    { parent: 2, text: " cat", id: 12, p: 0.3, expanded: false },
    { parent: 1, text: " cat", id: 12, p: 0.2, expanded: false },
  ];
  const grown = TreeData.from(treePayload(before, { settled: 2 }));
  const further = grown.append(treePayload(after, { first: 2, settled: 4 }));

  test("give way to what is sent in their place", () => {
    expect(columnsOf(further)).toEqual(columnsOf(TreeData.from(treePayload(after))));
    expect(further.isOpenTip(3)).toBe(false);
    expect(grown.isOpenTip(2)).toBe(true);
    expect(further.settled).toBe(4);
  });

  test("are found again by what they say", () => {
    const rows = before.map((_, row) => grown.rowIn(further, row));
    expect(rows).toEqual([0, 1, 3, 6]);
    expect(after.map((_, row) => further.rowIn(grown, row))).toEqual([0, 1, -1, 2, -1, -1, 3]);
  });

  test("do not hide that settled ones were lost", () => {
    const model = fakeModel();
    const synced = connect(model);
    const tell = (rows: TreePayload) =>
      model.tell({ type: "append", panel: "tree", status: {}, rows });
    tell(treePayload(before, { settled: 2 }));
    tell(treePayload(after, { first: 4, settled: 7 }));
    expect(synced.tree.value?.count).toBe(4);
    expect(model.sent.at(-1)).toMatchObject({ type: "since", run: 1, first: 2 });
    tell(treePayload(after, { first: 2, settled: 7 }));
    expect(synced.tree.value?.count).toBe(7);
    synced.close();
  });
});

describe("a stream", () => {
  const nodes = randomTree(4, 60, WORDS);
  const append = (first: number, stop: number, run = 1) => ({
    type: "append",
    panel: "tree",
    status: {},
    rows: treePayload(nodes, { first, stop, run }),
  });

  test("with a gap asks for what it lacks, and goes on with it", () => {
    const model = fakeModel();
    const synced = connect(model);
    model.tell(append(0, 20));
    model.tell(append(30, 40));
    expect(synced.tree.value?.count).toBe(20);
    expect(model.sent.at(-1)).toMatchObject({ type: "since", panel: "tree", run: 1, first: 20 });
    model.tell(append(20, 60));
    expect(synced.tree.value?.count).toBe(60);
    model.tell(append(0, 10, 2));
    expect(synced.tree.value).toMatchObject({ run: 2, count: 10 });
    synced.close();
    expect(model.listening()).toBe(0);
  });
});

describe("what is in sight", () => {
  const choices: [string, Partial<Choice>][] = [
    ["everything", {}],
    ["of itself", { openAbove: null }],
    ["the likely", { openAbove: 0.01 }],
    ["nothing", { openAbove: Number.POSITIVE_INFINITY }],
    ["trimmed", { trim: 0.002 }],
    ["trimmed to nothing", { trim: 1 }],
    ["quiet", { quiet: true }],
    [
      "by hand",
      {
        openAbove: 0.05,
        toggled: new Map([
          [0, true],
          [1, false],
          [9, true],
          [99999, true],
        ]),
      },
    ],
    ["all at once", { openAbove: 0.003, trim: 0.001, quiet: true, toggled: new Map([[2, false]]) }],
  ];
  describe.each(choices)("%s", (_, some) => {
    test.each([1, 2, 3])("is as the definition says, tree %d", (seed) => {
      const nodes = randomTree(seed, 300, WORDS);
      const choice = { ...ALL, ...some };
      const shown = show(TreeData.from(treePayload(nodes)), choice);
      const { rows, size, children } = naive(nodes, choice, 17);
      expect([...shown.rows]).toEqual(rows);
      for (const [index, row] of rows.entries()) {
        expect(shown.place[row]).toBe(index);
        expect(shown.size[row]).toBe(size(row));
        expect(childrenOf(shown, row)).toEqual(children(row));
      }
    });
  });

  test("neither opens nor folds by itself while a tree grows", () => {
    const nodes = randomTree(8, 3000, WORDS);
    const choice = { ...ALL, openAbove: null };
    let before = [0];
    for (const stop of [1, 20, 100, 700, 3000]) {
      const rows = [...show(TreeData.from(treePayload(nodes, { stop })), choice).rows];
      expect(rows.filter((row) => before.includes(row))).toEqual(before);
      before = rows;
    }
    expect(before.length).toBeGreaterThan(25);
    expect(before.length).toBeLessThan(80);
  });
});

describe("search", () => {
  const queries = ["a", "kind of", "KIND", "gs", " a", "é", "vehicle", '"', "s the", "x", "of of"];
  test.each(queries)("for %j finds where a definition comes to hold it", (query) => {
    for (const seed of [1, 2, 3, 4]) {
      const tree = TreeData.from(treePayload(randomTree(seed, 500, WORDS)));
      const holds = (row: number) =>
        row >= 0 && tree.textOf(row).toLowerCase().includes(query.toLowerCase());
      const expected = Array.from({ length: tree.count }, (_, row) => row).filter(
        (row) => holds(row) && !tree.path(row).slice(0, -1).some(holds),
      );
      expect(tree.search(query)).toEqual(expected);
    }
  });

  test("finds a character whose bytes share a token with letters", () => {
    const tree = TreeData.from(
      treePayload([
        ROOT,
        { parent: 0, text: " caf<0xC3>", p: 0.5 },
        { parent: 1, text: "<0xA9>s", p: 0.5 },
      ]),
    );
    expect(tree.search("café")).toEqual([2]);
  });

  test("for nothing finds nothing, and letters are the same in both cases", () => {
    const tree = TreeData.from(
      treePayload([ROOT, { parent: 0, text: " ΟΔΟΣ", p: 0.5 }, { parent: 1, text: "Α", p: 0.5 }]),
    );
    expect(tree.search("")).toEqual([]);
    expect(tree.search("οδος")).toEqual([1]);
    expect(tree.search("οδοσα")).toEqual([2]);
  });
});

describe("a node", () => {
  const tree = TreeData.from(
    treePayload([
      ROOT,
      { parent: 0, text: " caf", p: 0.9 },
      { parent: 1, text: "<0xC3>", p: 0.9 },
      { parent: 2, text: "<0xA9>", p: 0.9 },
      { parent: 3, text: '."', p: 0.9 },
      { parent: 4, text: "</s>", p: 0.9, id: END_ID },
      { parent: 1, text: " ”", p: 0.01 },
      { parent: 1, text: "s", p: 0.005, expanded: false },
    ]),
  );
  test("says the definition so far", () => {
    expect(tree.textOf(3)).toBe("café");
    expect(tree.textOf(5)).toBe('café."');
    expect(tree.textOf(0)).toBe("");
    expect(joinTokens(tree.path(3).map((row) => tree.tokenText(row)))).toBe(" café");
  });
  test("is an end, quiet, or a tip that may go on", () => {
    const rows = Array.from({ length: tree.count }, (_, row) => row);
    expect(rows.filter((row) => tree.isEnd(row))).toEqual([4, 5]);
    expect(rows.filter((row) => tree.isQuiet(row))).toEqual([6]);
    expect(rows.filter((row) => tree.isOpenTip(row))).toEqual([7]);
  });
});

describe("the diagram's layout", () => {
  test.each([1, 2, 3])("keeps nodes apart and parents between their children, tree %d", (seed) => {
    const shown = show(TreeData.from(treePayload(randomTree(seed, 800, WORDS))), {
      ...ALL,
      openAbove: 0.0005,
    });
    const random = seeded(seed);
    const widths = Array.from(shown.size, () => 8 + 100 * random());
    const layout = layoutOf(shown, (row) => widths[row]);
    const { x, y, width, top, bottom, right, line } = layout;
    const { rows, place, extent, tree } = shown;
    const byColumn = new Map<number, number[]>();
    for (let index = 0; index < rows.length; index += 1) {
      const row = rows[index];
      byColumn.set(x[index], [...(byColumn.get(x[index]) ?? []), y[index]]);
      expect(line[index]).toBeLessThanOrEqual(LEAF);
      expect(nodeAt(layout, x[index] + width[index] / 2, y[index])).toBe(index);
      const below = childrenOf(shown, row).filter((child) => place[child] >= 0);
      if (extent[row] > 1) {
        const [first, last] = [place[below[0]], place[below[below.length - 1]]];
        expect(y[index]).toBe((y[first] + y[last]) / 2);
        expect(top[index]).toBe(Math.min(...below.map((child) => top[place[child]])));
        expect(bottom[index]).toBe(Math.max(...below.map((child) => bottom[place[child]])));
        expect(x[first]).toBeGreaterThan(x[index] + width[index]);
      }
      for (const child of below) expect(right[index]).toBeGreaterThanOrEqual(right[place[child]]);
    }
    for (const column of byColumn.values()) {
      column.sort((one, other) => one - other);
      for (let at = 1; at < column.length; at += 1) {
        expect(column[at] - column[at - 1]).toBeGreaterThanOrEqual(LEAF);
      }
    }
    expect(inOrder(tree, extent, null)[rows[5]]).toBe(5);
    expect(nodeAt(layout, -50, 0)).toBe(-1);
  });
});

describe("the SVG", () => {
  const hostile = [
    "</svg><script>alert(1)</script>",
    "\u0000\u0007\ud800",
    '"&amp;<![CDATA[',
    "\u202eabc",
    "\n",
  ];
  test("is well-formed and holds no markup of a token", () => {
    const nodes = [ROOT, ...hostile.map((text) => ({ parent: 0, text, p: 0.15 }))];
    const tree = TreeData.from(treePayload(nodes, { label: "<feature> & \u0001" }));
    const svg = svgOf(show(tree, ALL));
    const parsed = new DOMParser().parseFromString(svg, "image/svg+xml");
    expect(parsed.querySelector("parsererror")).toBeNull();
    expect(parsed.querySelectorAll("text")).toHaveLength(nodes.length);
    expect(parsed.querySelector("script")).toBeNull();
    expect(svg).not.toMatch(/[^\n\u0020-\ud7ff\ue000-\ufffd]/u);
    expect(svg).toContain("&lt;U+202E&gt;abc");
  });
  test("draws what is open, and says what folded nodes hide", () => {
    const tree = TreeData.from(treePayload(randomTree(5, 200, WORDS)));
    const shown = show(tree, { ...ALL, openAbove: Number.POSITIVE_INFINITY });
    const svg = svgOf(shown);
    expect(svg.match(/<text /g)).toHaveLength(shown.rows.length);
    const first = childrenOf(shown, 0)[0];
    expect(svg).toContain(`▸${shown.size[first] - 1}`);
  });
});
