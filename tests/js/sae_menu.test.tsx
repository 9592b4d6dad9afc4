import { act } from "preact/test-utils";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Choice } from "../../js/src/state/protocol.ts";
import { choose, type Shown, STATUS, SUBJECT, show, VALUES, write } from "./explorer.tsx";

let shown: Shown;
afterEach(() => shown.close());

const RELEASE = SUBJECT.release;

function sae(layer: number | null, more: Partial<Choice> = {}): Choice {
  const sae_id = `blocks.${layer}.hook_resid_post`;
  return { release: RELEASE, sae_id, layer, label: "width 16k", held: false, ...more };
}

/** One SAE a layer, the first of them in the model's memory. */
const LAYERS = [sae(0), sae(6, { held: true }), sae(10), sae(12)];
const SEVERAL = [
  sae(5, { label: "width 16k, L0 40", sae_id: "five" }),
  sae(6, { held: true, label: "width 16k, L0 70" }),
  sae(6, { label: "width 65k, L0 80\u202e", sae_id: "six-wide" }),
  sae(null, { label: "width 1k", sae_id: "embed" }),
];

const showing = (saes: Choice[], state: Record<string, unknown> = {}) =>
  show({ _subject: { ...SUBJECT, saes }, ...state });
const menu = () => shown.named<HTMLSelectElement>("SAE");
const said = () => menu().selectedOptions[0].textContent;

async function tell(name: string, value: unknown) {
  await act(async () => shown.model.set(name, value));
}

describe("what is offered", () => {
  test("where each layer has one SAE, the layers, in order", async () => {
    shown = await showing(LAYERS);
    expect([...menu().children].map((entry) => entry.textContent)).toEqual([
      "layer 0 ↓",
      "layer 6",
      "layer 10 ↓",
      "layer 12 ↓",
    ]);
    expect(said()).toBe("layer 6");
    expect(menu().title).toContain("is loaded when chosen");
  });

  test("where a layer has several, the layers with what tells them apart", async () => {
    shown = await showing(SEVERAL);
    const groups = [...menu().querySelectorAll("optgroup")].map((group) => [
      group.label,
      ...[...group.children].map((entry) => entry.textContent),
    ]);
    expect(groups).toEqual([
      ["layer 5", "width 16k, L0 40 ↓"],
      ["layer 6", "width 16k, L0 70", "width 65k, L0 80<U+202E> ↓"],
      ["no layer", "width 1k ↓"],
    ]);
    expect(said()).toBe("width 16k, L0 70");
  });

  test("an SAE of no layer goes by its id", async () => {
    shown = await showing([sae(6, { held: true }), sae(null, { sae_id: "embed" })]);
    expect(menu().textContent).toBe("layer 6embed ↓");
  });

  test.each([
    ["one SAE", LAYERS.slice(1, 2), {}],
    ["none", [], {}],
    ["a saved copy", LAYERS, { _saved: true }],
  ])("%s has no menu, but the layer in words", async (_what, saes, state) => {
    shown = await showing(saes, state);
    expect(() => menu()).toThrow();
    expect(shown.find(".sae-subject").textContent).toContain("layer 6");
  });
});

describe("choosing", () => {
  test("asks for it, and shows it until it is there", async () => {
    shown = await showing(LAYERS);
    await choose(menu(), "3");
    expect(shown.asked("select")).toMatchObject([
      { release: RELEASE, sae_id: "blocks.12.hook_resid_post" },
    ]);
    expect(said()).toBe("layer 12 ↓");
    const loading = { ...STATUS, state: "loading", text: "downloading", progress: 0.3 };
    await tell("_status", loading);
    await shown.answer("select", { ok: true });
    expect(said()).toBe("layer 12 ↓");
    await tell("_subject", {
      ...SUBJECT,
      sae: "blocks.12.hook_resid_post",
      layer: 12,
      saes: [...LAYERS.slice(0, 3), { ...LAYERS[3], held: true }],
    });
    await tell("_status", { ...STATUS, state: "growing" });
    expect(said()).toBe("layer 12");
  });

  test.each([
    ["cancelled", STATUS],
    ["failed", { ...STATUS, state: "error", error: "No file." }],
  ])("goes back when loading was %s", async (_what, status) => {
    shown = await showing(LAYERS);
    await choose(menu(), "2");
    await tell("_status", { ...STATUS, state: "loading" });
    await shown.answer("select", { ok: true });
    await tell("_status", status);
    expect(said()).toBe("layer 6");
    // A later loading is not of the one that was chosen then.
    await tell("_status", { ...STATUS, state: "loading" });
    expect(said()).toBe("layer 6");
  });

  test("with the keyboard only the last one is asked for, after a pause or at once", async () => {
    shown = await showing(LAYERS);
    vi.useFakeTimers();
    try {
      const press = (key: string) =>
        act(async () => {
          menu().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        });
      const wait = () =>
        act(async () => {
          vi.advanceTimersByTime(1000);
        });
      for (const place of ["2", "3", "0"]) {
        await press("ArrowDown");
        await choose(menu(), place);
      }
      expect(said()).toBe("layer 0 ↓");
      expect(shown.asked("select")).toEqual([]);
      await wait();
      expect(shown.asked("select")).toMatchObject([{ sae_id: "blocks.0.hook_resid_post" }]);
      await press("ArrowDown");
      await choose(menu(), "2");
      await press("Enter");
      expect(shown.asked("select").at(-1)).toMatchObject({ sae_id: "blocks.10.hook_resid_post" });
      await wait();
      expect(shown.asked("select").length).toBe(2);
    } finally {
      vi.useRealTimers();
    }
  });

  test("goes back when it is refused, and says why", async () => {
    shown = await showing(LAYERS);
    await choose(menu(), "2");
    await shown.answer("select", { ok: false, error: "The explorer was closed." });
    expect(said()).toBe("layer 6");
    expect(shown.find("[role=alert]").textContent).toBe("The explorer was closed.");
  });

  test("the tree and its figures stay while another SAE is loaded", async () => {
    shown = await showing(LAYERS, {
      _status: { ...STATUS, state: "loading", text: "downloading: 1.2 of 5.0 GB", progress: 0.24 },
    });
    expect(shown.find("[role=tree]").textContent).toContain("a");
    expect(shown.find(".sae-figures").textContent).toContain("1,234");
    expect(shown.find(".sae-notice").textContent).toContain("1.2 of 5.0 GB");
    expect(shown.find("[role=progressbar]").getAttribute("aria-valuenow")).toBe("24");
    expect(shown.button("Cancel").disabled).toBe(false);
  });
});

test("a feature that the SAE has not is marked where it stands, and another can be chosen", async () => {
  shown = await showing(LAYERS, { _values: { ...VALUES, feature: 20000 } });
  const field = shown.named("Feature to show");
  expect(field.getAttribute("aria-invalid")).toBe("true");
  expect(field.title).toBe("There is no feature 20000: they are numbered 0 to 16,383.");
  await write(field, "5");
  expect(field.hasAttribute("aria-invalid")).toBe(false);
  await write(field, "5", "Enter");
  expect(shown.asked("set").at(-1)).toMatchObject({ values: { feature: 5 } });
});

describe("before there is a tree", () => {
  test.each([
    [0.24, "true"],
    [null, undefined],
  ])("the panel says what is loaded, and how far it is: %s", async (progress, known) => {
    const text = "downloading google/gemma-2b: 1.2 of 5.0 GB";
    shown = await show({
      _subject: null,
      _tree: null,
      _status: { ...STATUS, nodes: 0, state: "loading", text, progress },
    });
    expect(shown.find(".sae-main").textContent).toContain(text);
    expect(shown.find(".sae-meter").dataset.known).toBe(known);
    expect(shown.el.querySelectorAll("[role=progressbar]").length).toBe(1);
  });

  test("rows of a tree that came to nothing are not shown as one", async () => {
    shown = await show({ _status: { ...STATUS, nodes: 0, state: "error", error: "No feature." } });
    expect(shown.el.querySelector("[role=tree]")).toBeNull();
  });

  test("what went wrong has the room that it needs, and the next try its button", async () => {
    shown = await show({
      _subject: null,
      _tree: null,
      _status: { ...STATUS, nodes: 0, state: "error", error: "The model cannot be loaded." },
    });
    expect(shown.find(".sae-notice").dataset.whole).toBe("true");
    expect(shown.find("[role=alert]").textContent).toBe("The model cannot be loaded.");
    expect(shown.button("Try again").disabled).toBe(false);
  });
});
