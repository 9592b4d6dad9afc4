import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { pictureOf } from "../../js/src/ui/picture.ts";
import { type Node, ROOT, randomTree, treePayload } from "./model.ts";
import { type Panel, panel } from "./tree_panel.tsx";

const NODES: Node[] = [
  ROOT,
  { parent: 0, text: " a", p: 0.6 }, // 1
  { parent: 0, text: " the", p: 0.2 }, // 2
  { parent: 1, text: " kind", p: 0.3 }, // 3
  { parent: 2, text: " kind", p: 0.5 }, // 4
  { parent: 3, text: " of", p: 0.4 }, // 5
];

let own: Panel;
const canvas = () => own.root.querySelector("canvas") as HTMLCanvasElement;
const selected = () => own.explorer.local.selected.value;
const said = () => own.root.querySelector(".sae-diagram [role=status]")?.textContent;

beforeEach(async () => {
  own = await panel({ _tree: treePayload(NODES) });
  await own.do(() => {
    own.explorer.local.drawing.value = "diagram";
  });
  own.focus("canvas");
});
afterEach(() => own.close());

describe("keys", () => {
  test("walk along the tree, and each step is said", async () => {
    const walk = async (key: string) => {
      await own.press(key);
      return selected();
    };
    expect(await walk("ArrowRight")).toBe(0);
    expect(await walk("ArrowRight")).toBe(1);
    expect(said()).toBe("␣a, P of path 60.0 %, p of token 60.0 %, depth 1, open, 2 below");
    expect(await walk("ArrowDown")).toBe(2);
    expect(await walk("ArrowRight")).toBe(4);
    expect(await walk("ArrowUp")).toBe(3);
    expect(await walk("ArrowDown")).toBe(4);
    expect(await walk("ArrowLeft")).toBe(2);
    expect(await walk("Home")).toBe(0);
  });

  test("fold, zoom and fit, and no other key is taken", async () => {
    await own.press("ArrowRight");
    await own.press("ArrowRight");
    await own.press("Enter");
    expect(said()).toContain("folded, 2 below");
    for (const key of ["+", "-", "0"]) {
      expect((await own.press(key)).defaultPrevented).toBe(true);
    }
    expect((await own.press("x")).defaultPrevented).toBe(false);
    expect((await own.press("+", { ctrlKey: true })).defaultPrevented).toBe(false);
  });
});

test("both drawings share selection and folds", async () => {
  await own.press("ArrowRight");
  await own.press("ArrowRight");
  await own.press("Enter");
  await own.do(() => {
    own.explorer.local.drawing.value = "outline";
  });
  const line = own.root.querySelector("[aria-selected='true']");
  expect(line?.textContent).toContain("a");
  expect(line?.getAttribute("aria-expanded")).toBe("false");
});

test("the diagram is named for those who do not see it", () => {
  expect(canvas().getAttribute("role")).toBe("application");
  expect(canvas().tabIndex).toBe(0);
  expect(canvas().getAttribute("aria-label")).toContain("feature 7");
});

test("the wheel scrolls the page until the diagram has the focus or Ctrl is held", async () => {
  const turn = async (how: { ctrlKey?: boolean }) => {
    const event = new WheelEvent("wheel", { deltaY: 30, bubbles: true, cancelable: true });
    // happy-dom's wheel knows no keys.
    Object.assign(event, how);
    await own.do(() => canvas().dispatchEvent(event));
    return event.defaultPrevented;
  };
  expect(await turn({})).toBe(true);
  canvas().blur();
  expect(await turn({})).toBe(false);
  expect(await turn({ ctrlKey: true })).toBe(true);
});

test("leaves no listener, observer or frame behind", async () => {
  const element = canvas();
  own.close();
  const add = vi.spyOn(HTMLElement.prototype, "addEventListener");
  const remove = vi.spyOn(HTMLElement.prototype, "removeEventListener");
  const watching = [
    vi.spyOn(ResizeObserver.prototype, "observe"),
    vi.spyOn(MutationObserver.prototype, "observe"),
  ];
  const ending = [
    vi.spyOn(ResizeObserver.prototype, "disconnect"),
    vi.spyOn(MutationObserver.prototype, "disconnect"),
  ];
  const by = (spies: { mock: { contexts: unknown[] } }[]) =>
    new Set(spies.flatMap(({ mock }) => mock.contexts));
  own = await panel({ _tree: treePayload(NODES) });
  await own.do(() => {
    own.explorer.local.drawing.value = "diagram";
  });
  const next = canvas();
  expect(next).not.toBe(element);
  const onCanvas = (calls: typeof add) =>
    calls.mock.calls.filter((_, at) => calls.mock.contexts[at] === next).map(([kind]) => kind);
  const added = onCanvas(add);
  expect(added).toContain("wheel");
  expect(by(watching).size).toBeGreaterThan(1);
  await own.do(() => own.close());
  expect(onCanvas(remove as unknown as typeof add)).toEqual(
    expect.arrayContaining(added.filter((kind) => kind !== "keydown")),
  );
  for (const observer of by(watching)) expect(by(ending).has(observer)).toBe(true);
  expect(own.model.listening()).toBe(0);
});

describe("the picture", () => {
  const textOf = async () => {
    const file = await pictureOf("svg", own.explorer);
    expect(file).toMatchObject({ name: "sae-feature-7-tree.svg", mime: "image/svg+xml" });
    return new TextDecoder().decode(file.data);
  };
  test("is of what is shown", async () => {
    expect((await textOf()).match(/<text /g)).toHaveLength(6);
    await own.do(() => {
      own.explorer.local.trim.value = 0.19;
    });
    expect((await textOf()).match(/<text /g)).toHaveLength(3);
  });

  test("that no canvas can hold is refused with what to do", async () => {
    const many = randomTree(2, 3000, [" a", " b"]);
    await own.do(() => own.model.set("_tree", treePayload(many, { run: 2 })));
    await own.do(() => {
      own.explorer.local.openAbove.value = 0;
    });
    await expect(pictureOf("png", own.explorer)).rejects.toThrow(/Fold branches, raise the trim/);
    expect((await textOf()).match(/<text /g)).toHaveLength(3000);
  });

  test("needs a tree", async () => {
    const empty = await panel();
    await expect(pictureOf("svg", empty.explorer)).rejects.toThrow("no tree to draw");
    empty.close();
  });
});
