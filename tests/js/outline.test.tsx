import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { END_ID, type Node, ROOT, randomTree, treePayload } from "./model.ts";
import { type Panel, panel } from "./tree_panel.tsx";

const HOSTILE = "</span><img src=x onerror=alert(1)>\u202e";
const NODES: Node[] = [
  ROOT,
  { parent: 0, text: " a", p: 0.6 }, // 1
  { parent: 0, text: " the", p: 0.2 }, // 2
  { parent: 1, text: " kind", p: 0.3 }, // 3
  { parent: 3, text: " of", p: 0.9 }, // 4
  { parent: 4, text: " vehicle", p: 0.5 }, // 5
  { parent: 5, text: '"', p: 0.9 }, // 6
  { parent: 6, text: "</s>", p: 0.9, id: END_ID }, // 7
  { parent: 2, text: HOSTILE, p: 0.3 }, // 8
  { parent: 4, text: " car", p: 0.1, expanded: false }, // 9
];

let own: Panel;
const lines = () => [...own.root.querySelectorAll<HTMLElement>("[role=treeitem]")];
const line = (row: number) => own.root.querySelector<HTMLElement>(`[data-row="${row}"]`);
const inOrder = () =>
  lines()
    .map((element) => [
      Number(/-?\d+/.exec(element.style.transform)?.[0]),
      Number(element.dataset.row),
    ])
    .sort(([one], [other]) => one - other)
    .map(([, row]) => row);
const selected = () => own.explorer.local.selected.value;

beforeEach(async () => {
  own = await panel({ _tree: treePayload(NODES) });
});
afterEach(() => {
  own.close();
  vi.useRealTimers();
});

describe("lines", () => {
  test("are in the order of reading, with their place said", () => {
    expect(inOrder()).toEqual([0, 1, 3, 4, 5, 6, 7, 9, 2, 8]);
    const said = (row: number) =>
      ["level", "setsize", "posinset", "expanded", "selected"].map((name) =>
        line(row)?.getAttribute(`aria-${name}`),
      );
    expect(said(0)).toEqual(["1", "1", "1", "true", "false"]);
    expect(said(2)).toEqual(["2", "2", "2", "true", "false"]);
    expect(said(9)).toEqual(["5", "2", "2", null, "false"]);
  });

  test("show tokens, figures and the definition so far", () => {
    const text = (row: number) => line(row)?.textContent;
    // What each figure is, and what the signs mean, is there to be heard.
    expect(text(5)).toBe("␣vehicle, P of path 8.10 %, p of token 50.0 %a kind of vehicle");
    expect(text(6)).toContain("∎, closes the answer, P of path");
    expect(text(7)).toContain("∎ end");
    expect(text(9)).toContain("car …, may go on");
    expect(text(0)).toContain('A typical definition of "{ghost}" would be "');
  });

  test("show hostile tokens as text", () => {
    expect(own.root.querySelector("img")).toBeNull();
    expect(line(8)?.textContent).toContain("</span><img␣src=x␣onerror=alert(1)><U+202E>");
  });

  test("are drawn only where they are seen, and the one with the focus", async () => {
    const many = randomTree(1, 5000, [" a", " b"]);
    await own.do(() => own.model.set("_tree", treePayload(many, { run: 2 })));
    await own.do(() => {
      own.explorer.local.openAbove.value = 0;
    });
    expect(lines().length).toBeLessThan(80);
    const height = own.root.querySelector<HTMLElement>("[role=tree]")?.style.height;
    expect(height).toBe(`${5000 * 24}px`);
    own.focus("[tabindex='0'][role=treeitem]");
    const box = own.root.querySelector(".sae-outline") as HTMLElement;
    await own.do(() => {
      box.scrollTop = 60_000;
      box.dispatchEvent(new Event("scroll"));
    });
    expect(inOrder()).toContain(0);
    expect(document.activeElement).toBe(line(0));
    expect(lines().length).toBeLessThan(80);
    await own.press("End");
    expect(document.activeElement).toBe(line(inOrder().at(-1) as number));
    expect(box.scrollTop).toBeGreaterThan(100_000);
  });
});

describe("keys", () => {
  beforeEach(() => own.focus("[tabindex='0'][role=treeitem]"));

  test("walk", async () => {
    const walk = async (...keys: string[]) => {
      for (const key of keys) await own.press(key);
      expect(document.activeElement).toBe(line(selected()));
      expect(lines().filter((element) => element.tabIndex === 0)).toEqual([line(selected())]);
      return selected();
    };
    expect(await walk("ArrowDown")).toBe(0);
    expect(await walk("ArrowDown", "ArrowDown")).toBe(3);
    expect(await walk("ArrowUp")).toBe(1);
    expect(await walk("End")).toBe(8);
    expect(await walk("Home")).toBe(0);
    expect(await walk("ArrowRight")).toBe(1);
    expect(await walk("ArrowLeft")).toBe(1);
    expect(line(1)?.getAttribute("aria-expanded")).toBe("false");
    expect(inOrder()).toEqual([0, 1, 2, 8]);
    expect(await walk("ArrowLeft")).toBe(0);
    expect(await walk("PageDown")).toBe(8);
    expect(await walk("PageUp")).toBe(0);
  });

  test("fold, open and open siblings", async () => {
    await own.do(() => {
      own.explorer.local.openAbove.value = Number.POSITIVE_INFINITY;
    });
    expect(inOrder()).toEqual([0, 1, 2]);
    await own.press("ArrowDown");
    await own.press("ArrowDown");
    await own.press("*");
    expect(inOrder()).toEqual([0, 1, 3, 2, 8]);
    await own.press("Enter");
    expect(inOrder()).toEqual([0, 1, 2, 8]);
    await own.press(" ");
    expect(inOrder()).toEqual([0, 1, 3, 2, 8]);
  });

  test("that are letters go to the next token in sight that begins with them", async () => {
    const pause = () => new Promise((done) => setTimeout(done, 800));
    await own.press("c");
    expect(selected()).toBe(9);
    await pause();
    // From the end it goes on at the top.
    await own.press("k");
    await own.press("i");
    expect([selected(), document.activeElement]).toEqual([3, line(3)]);
    await pause();
    await own.press("T");
    expect(selected()).toBe(2);
    await own.press("x"); // nothing begins with "tx"
    expect(selected()).toBe(2);
    expect((await own.press("!")).defaultPrevented).toBe(false);
  });

  test("copy the path, go to the search and clear", async () => {
    const write = vi.fn(async () => {});
    vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText: write } });
    await own.press("ArrowDown");
    await own.press("ArrowDown");
    await own.press("ArrowDown");
    await own.press("c", { ctrlKey: true });
    expect(write).toHaveBeenCalledWith("a kind");
    vi.unstubAllGlobals();
    const event = await own.press("/");
    expect(event.defaultPrevented).toBe(true);
    expect(document.activeElement).toBe(own.root.querySelector("input[type=search]"));
    own.focus("[tabindex='0'][role=treeitem]");
    expect((await own.press("Escape")).defaultPrevented).toBe(true);
    expect(selected()).toBe(-1);
    // Nothing is left to clear: others may use the key.
    expect((await own.press("Escape")).defaultPrevented).toBe(false);
  });
});

describe("search", () => {
  test("goes to matches in the order of reading and opens what hides them", async () => {
    await own.do(() => {
      own.explorer.local.openAbove.value = Number.POSITIVE_INFINITY;
      own.explorer.local.query.value = "i";
    });
    expect(own.root.querySelector(".sae-matches")?.textContent).toBe("– / 2");
    own.focus("input[type=search]");
    await own.press("Enter");
    expect(selected()).toBe(3);
    expect(line(3)?.dataset.found).toBe("true");
    expect(document.activeElement?.getAttribute("type")).toBe("search");
    await own.press("Enter");
    expect(selected()).toBe(8);
    await own.press("Enter");
    expect(selected()).toBe(3);
    await own.press("Enter", { shiftKey: true });
    expect(selected()).toBe(8);
    await own.press("Escape");
    expect(own.explorer.local.query.value).toBe("");
  });

  test("finds nothing in what is hidden", async () => {
    await own.do(() => {
      own.explorer.local.trim.value = 0.19;
      own.explorer.local.query.value = "kind";
    });
    expect(own.root.querySelector(".sae-matches")?.textContent).toBe("no match");
    expect(own.root.querySelector(".sae-left")?.textContent).toBe("3 of 10 nodes");
  });
});

describe("a tree that grows", () => {
  const nodes = randomTree(6, 600, [" a", " b", " c"]);
  const append = (first: number, stop: number, run: number) =>
    own.do(() =>
      own.model.tell({
        type: "append",
        panel: "tree",
        status: { state: "growing" },
        rows: treePayload(nodes, { first, stop, run }),
      }),
    );

  test("keeps selection, folds, focus and what is in view", async () => {
    await append(0, 200, 5);
    await own.do(() => {
      own.explorer.local.openAbove.value = 0;
    });
    const box = own.root.querySelector(".sae-outline") as HTMLElement;
    const at = inOrder()[30];
    await own.do(() => line(at)?.click());
    await own.do(() => {
      box.scrollTop = 400;
      box.dispatchEvent(new Event("scroll"));
    });
    await own.do(() => line(at)?.querySelector<HTMLElement>(".sae-twisty")?.click());
    const folds = own.explorer.local.toggled.value;
    const heightOf = () => Number(/\d+/.exec(line(at)?.style.transform ?? "")?.[0]) - box.scrollTop;
    const before = heightOf();
    await append(200, 600, 5);
    expect(selected()).toBe(at);
    expect(document.activeElement).toBe(line(at));
    expect(own.explorer.local.toggled.value).toBe(folds);
    expect(heightOf()).toBe(before);
    expect(box.scrollTop).toBeGreaterThan(400);
  });

  test("of a new run begins without them", async () => {
    await own.do(() => line(3)?.click());
    await own.do(() => line(1)?.querySelector<HTMLElement>(".sae-twisty")?.click());
    await append(0, 100, 2);
    expect(selected()).toBe(-1);
    expect(own.explorer.local.toggled.value.size).toBe(0);
  });
});

describe("the card", () => {
  const hover = (row: number) =>
    own.do(() => {
      const event = new Event("pointermove", { bubbles: true });
      line(row)?.dispatchEvent(Object.assign(event, { clientX: 5, clientY: 5, buttons: 0 }));
    });
  test("shows what the pointer rests on", async () => {
    vi.useFakeTimers();
    await hover(5);
    expect(own.root.querySelector(".sae-card")).toBeNull();
    await own.do(() => vi.advanceTimersByTime(300));
    const text = own.root.querySelector(".sae-card")?.textContent;
    for (const part of ["vehicle", "8.10 %", "50.0 %", "depth4", "a kind of vehicle"]) {
      expect(text).toContain(part);
    }
    await own.do(() =>
      own.root.querySelector(".sae-outline")?.dispatchEvent(new Event("pointerleave")),
    );
    expect(own.root.querySelector(".sae-card")).toBeNull();
  });
});

test("a tree of the root alone says what to do", async () => {
  const status = { state: "done" };
  own.close();
  own = await panel({ _tree: treePayload([ROOT]), _status: status });
  expect(own.root.textContent).toContain("No answer is as probable as the cutoff, 5e-5: lower it.");
});

test.each([
  ["loading", "once the model is loaded"],
  ["growing", "on their way"],
  ["error", "what to do, stands above"],
])("without a tree, %s, the panel says so", async (state, words) => {
  own.close();
  own = await panel({ _status: { state, text: state, progress: null } });
  expect(own.root.textContent).toContain(words);
});
