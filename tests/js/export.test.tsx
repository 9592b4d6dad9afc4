import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { click, FILES, press, type Shown, show, tokensPayload } from "./explorer.tsx";
import { INTERVENTIONS } from "./findings.ts";
import { ROOT, treePayload } from "./model.ts";

let shown: Shown;
let saved: { name: string; blob: Blob }[];

beforeEach(() => {
  saved = [];
  let last: Blob;
  vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
    last = blob as Blob;
    return "blob:fake";
  });
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (
    this: HTMLAnchorElement,
  ) {
    expect(shown.el.contains(this)).toBe(true);
    saved.push({ name: this.download, blob: last });
  });
});
afterEach(() => shown.close());

const items = () =>
  [...shown.el.querySelectorAll<HTMLElement>("[role=menuitem]")].map(
    (item) => item.querySelector(".sae-menu-file")?.textContent,
  );
const item = (file: string) =>
  [...shown.el.querySelectorAll<HTMLElement>("[role=menuitem]")].find((entry) =>
    entry.textContent?.includes(file),
  ) as HTMLElement;

describe("export menu", () => {
  test("offers what the kernel lists, pictures of the tree, and the report", async () => {
    shown = await show();
    await click(shown.button("Export"));
    expect(items().sort()).toEqual([...FILES, "tree.svg", "tree.png"].sort());
  });

  test("offers no picture without a tree and no report in a copy", async () => {
    shown = await show({ _saved: true, _tree: null, _files: ["tokens.csv"] });
    await click(shown.button("Export"));
    expect(items()).toEqual(["tokens.csv"]);
  });

  test("saves what the kernel writes, under its name and type", async () => {
    shown = await show();
    await click(shown.button("Export"));
    await click(item("tree.nwk"));
    expect(shown.asked("export").at(-1)?.file).toBe("tree.nwk");
    const bytes = new TextEncoder().encode("xx(a,b);");
    await shown.answer("export", {
      ok: true,
      file: {
        name: "sae-feature-7-tree.nwk",
        mime: "text/plain",
        data: new DataView(bytes.buffer, 2),
      },
    });
    expect(saved[0].name).toBe("sae-feature-7-tree.nwk");
    expect(saved[0].blob.type).toBe("text/plain");
    expect(await saved[0].blob.text()).toBe("(a,b);");
    expect(shown.el.querySelector("a[download]")).toBeNull();
  });

  test("shows why a file could not be had", async () => {
    shown = await show();
    await click(shown.button("Export"));
    await click(item("report.html"));
    await shown.answer("export", { ok: false, error: "The front-end was not built." });
    expect(shown.find("[role=alert]").textContent).toBe("The front-end was not built.");
    expect(saved).toEqual([]);
  });

  test("is worked by keys, and gives the focus back", async () => {
    shown = await show();
    const button = shown.button("Export");
    button.focus();
    await press(button, "ArrowDown");
    const focused = () => document.activeElement?.querySelector(".sae-menu-file")?.textContent;
    const all = items();
    expect(focused()).toBe(all[0]);
    for (const [key, expected] of [
      ["ArrowDown", all[1]],
      ["End", all.at(-1)],
      ["ArrowDown", all[0]],
      ["ArrowUp", all.at(-1)],
      ["Home", all[0]],
    ] as const) {
      await press(document.activeElement as Element, key);
      expect(focused()).toBe(expected);
    }
    await press(document.activeElement as Element, "Escape");
    expect(items()).toEqual([]);
    expect(document.activeElement).toBe(button);
  });

  test("tells the names that files are saved by", async () => {
    shown = await show();
    await click(shown.button("Export"));
    const named = FILES.map((file) => [file, item(file).title]);
    expect(Object.fromEntries(named)).toMatchObject({
      "tree.nwk": "sae-feature-7-tree.nwk",
      "lens.csv": "sae-decoder-of-feature-7-lens.csv",
      "report.html": "sae-feature-7-report.html",
    });
    expect(item("tree.png").title).toBe("sae-feature-7-tree.png");
    shown.model.set("_tree", null);
    shown.model.set("_tokens", { ...tokensPayload(), stem: "sae-feature-8" });
    await vi.waitFor(() => expect(item("report.html").title).toBe("sae-feature-8-report.html"));
    const beside = shown.find(".sae-tokens .sae-take button:nth-of-type(2)");
    expect(beside.title).toBe("Save sae-feature-8-tokens.csv");
  });

  test("has the focus before another key can be pressed", async () => {
    shown = await show();
    shown.button("Export").click();
    // Drawn in a microtask. What waits for the screen comes later: another key may be there first.
    await Promise.resolve();
    expect(items()).not.toEqual([]);
    expect(document.activeElement?.getAttribute("role")).toBe("menuitem");
  });

  test("closes when the focus goes elsewhere", async () => {
    shown = await show();
    await click(shown.button("Export"));
    await act(async () => shown.named("Scale").focus());
    expect(items()).toEqual([]);
  });
});

test("what is drawn here says in its name what it is of", async () => {
  shown = await show();
  await click(shown.button("Export"));
  await click(item("tree.svg"));
  expect(saved.map(({ name }) => name)).toEqual(["sae-feature-7-tree.svg"]);
});

test("so does what a saved copy carries", async () => {
  const packed = new Blob(["one,two"]).stream().pipeThrough(new CompressionStream("gzip"));
  const data = new DataView(await new Response(packed).arrayBuffer());
  shown = await show({
    _saved: true,
    _files: ["lens.csv"],
    _attachments: { "lens.csv": { mime: "text/csv", data } },
  });
  await click(shown.button("Export"));
  await click(item("lens.csv"));
  await vi.waitFor(() => expect(saved[0]?.name).toBe("sae-decoder-of-feature-7-lens.csv"));
  expect(await saved[0].blob.text()).toBe("one,two");
});

test("CSV beside a list saves the whole of it", async () => {
  shown = await show();
  await click(shown.find(".sae-tokens .sae-take button:nth-of-type(2)"));
  expect(shown.asked("export").map(({ file }) => file)).toEqual(["tokens.csv"]);
});

test("what the results were made from can be read", async () => {
  shown = await show();
  await click(shown.button("About"));
  const text = shown.find("[role=dialog]").textContent;
  for (const part of [
    "google/gemma-2b",
    "9cf48e5",
    "blocks.6.hook_resid_post",
    "2.9.0",
    "cutoff",
    "5e-5",
  ]) {
    expect(text).toContain(part);
  }
});

test("interventions are told in words among what the results were made from", async () => {
  const request = { feature: 7, interventions: INTERVENTIONS, targets: [" dog"] };
  shown = await show({ _tree: treePayload([ROOT], { request }) });
  await click(shown.button("About"));
  const text = shown.find("[role=dialog]").textContent;
  expect(text).toContain("steer feature 4021 by 0.5 × residual norm, in: generated, not BOS");
  expect(text).toContain("ablate feature 9, at 0, -1");
  expect(text).toContain("␣dog");
});
