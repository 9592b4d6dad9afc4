import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  choose,
  click,
  press,
  type Shown,
  STATUS,
  SUBJECT,
  show,
  VALUES,
  write,
} from "./explorer.tsx";
import { ROOT, treePayload } from "./model.ts";

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  vi.useRealTimers();
});

const figures = () =>
  [...shown.el.querySelectorAll(".sae-figures > div")].map(({ textContent }) => textContent);
const wanted = () => shown.asked("set").map(({ values }) => values);

describe("from feature to feature", () => {
  test.each([
    ["Next feature", 8],
    ["Previous feature", 6],
  ])("%s asks for it", async (label, feature) => {
    shown = await show();
    await click(shown.named(label));
    expect(wanted()).toEqual([{ feature }]);
  });

  test.each([
    ["]", 8],
    ["[", 6],
  ])("the key %s does the same", async (key, feature) => {
    shown = await show();
    await press(shown.find(".sae-app"), key);
    expect(wanted()).toEqual([{ feature }]);
  });

  test("brackets that are written into a field are text", async () => {
    shown = await show();
    await press(shown.named("Prompt"), "]");
    expect(wanted()).toEqual([]);
  });

  test("Enter jumps, arrows step, and a number that is no feature is refused on the spot", async () => {
    shown = await show();
    const field = shown.named("Feature to show");
    await write(field, "99999", "Enter");
    expect(field.getAttribute("aria-invalid")).toBe("true");
    expect(field.title).toContain("0 to 16,383");
    expect(wanted()).toEqual([]);
    await write(field, "4,021", "Enter");
    expect(wanted()).toEqual([{ feature: 4021 }]);
    vi.advanceTimersByTime(200);
    await press(field, "ArrowUp");
    expect(wanted().at(-1)).toEqual({ feature: 4022 });
  });

  test("random stays within the SAE, and there is nothing before the first or after the last", async () => {
    shown = await show({ _values: { ...VALUES, feature: 0 } });
    expect(shown.named("Previous feature").getAttribute("aria-disabled")).toBe("true");
    vi.spyOn(Math, "random").mockReturnValue(0.9999999);
    await click(shown.named("Random feature"));
    expect(wanted()).toEqual([{ feature: SUBJECT.width - 1 }]);
  });

  test("featured features are offered with their labels", async () => {
    shown = await show();
    const menu = shown.named<HTMLSelectElement>("Featured features");
    expect(menu.textContent).toContain("12  vehicles");
    await choose(menu, "12");
    expect(wanted()).toEqual([{ feature: 12 }]);
  });

  test("a ghost that is no feature is named", async () => {
    shown = await show({ _values: { ...VALUES, feature: null }, _tree: null });
    shown.model.set("_tokens", {
      ...(shown.model.get("_tokens") as object),
      label: "token 'dog\u202e'",
    });
    await vi.advanceTimersByTimeAsync(0);
    expect(shown.find(".sae-feature-word").textContent).toBe("token 'dog<U+202E>'");
  });
});

describe("Neuronpedia", () => {
  test("is linked, and embedded only on request", async () => {
    shown = await show();
    const link = shown.find<HTMLAnchorElement>("a.sae-link");
    expect(link.href).toBe(`${SUBJECT.neuronpedia}7`);
    expect([link.target, link.rel]).toEqual(["_blank", "noopener noreferrer"]);
    expect(shown.el.querySelector("iframe")).toBeNull();
    await click(shown.button("Embed"));
    expect(shown.find("iframe").getAttribute("src")).toBe(`${SUBJECT.neuronpedia}7?embed=true`);
    await click(shown.named("Close Neuronpedia"));
    expect(shown.el.querySelector("iframe")).toBeNull();
  });

  test("a saved copy embeds nothing", async () => {
    shown = await show({ _saved: true });
    expect(shown.el.querySelector("a.sae-link")).not.toBeNull();
    expect(() => shown.button("Embed")).toThrow();
  });

  test("an SAE that is not there has no link", async () => {
    shown = await show({ _subject: { ...SUBJECT, neuronpedia: null } });
    expect(shown.el.querySelector("a.sae-link")).toBeNull();
  });
});

describe("state and figures", () => {
  test.each([
    ["loading", {}, "Cancel", { type: "cancel" }],
    ["growing", {}, "Cancel", { type: "cancel" }],
    ["partial", { resumable: true }, "Grow on", { type: "resume" }],
    ["error", { error: "It broke." }, "Try again", { type: "run" }],
  ] as const)("%s is said in a word, with what can be done", async (state, more, text, message) => {
    shown = await show({ _status: { ...STATUS, ...more, state } });
    expect(shown.find(".sae-chip").textContent).toBe(state);
    await click(shown.button(text));
    expect(shown.model.sent.at(-1)).toMatchObject(message);
  });

  test.each([
    ["done", {}],
    ["partial", { resumable: false }],
  ] as const)("%s has nothing to be done, and keeps the button's place", async (state, more) => {
    shown = await show({ _status: { ...STATUS, ...more, state } });
    expect(shown.find(".sae-action").getAttribute("aria-disabled")).toBe("true");
    expect(shown.find(".sae-action").dataset.shown).toBeUndefined();
  });

  test("nodes, covered probability and how long it took", async () => {
    shown = await show();
    expect(figures()).toEqual(["1,234nodes", "87.1 %covered", "2 sto grow"]);
    expect(shown.find(".sae-figures").innerHTML).toContain("begins with a path to a tip");
  });

  const GROWING = { ...STATUS, state: "growing", text: "growing", run: 2 };
  const unfinished = () =>
    treePayload([ROOT, { parent: 0, text: " a", p: 0.5 }], { run: 2, status: "partial" });

  test("while it grows, how fast; of what was stopped, no word of a whole", async () => {
    shown = await show({ _status: GROWING });
    expect(figures()[2]).toBe("617nodes/s");
    shown.model.set("_tree", unfinished());
    shown.model.set("_status", { ...GROWING, state: "partial", text: "stopped", seconds: 0.0512 });
    await vi.advanceTimersByTimeAsync(0);
    expect(figures()[2]).toBe("0.051 sso far");
  });

  test.each([
    ["while another model is loaded", { state: "loading", text: "loading gpt2" }, {}],
    ["while its lift is measured", { text: "measuring lift" }, {}],
    ["as a saved copy", {}, { _saved: true }],
  ])("a tree that is not whole is given no speed %s", async (_when, status, more) => {
    shown = await show({ _tree: unfinished(), _status: { ...GROWING, ...status }, ...more });
    expect(figures()[2]).toBe("2 sso far");
  });

  test.each(["loading", "growing", "error"])(
    "a tree that is whole keeps its time, though the state is %s",
    async (state) => {
      shown = await show({ _status: { ...STATUS, state, text: state } });
      expect(figures()[2]).toBe("2 sto grow");
    },
  );

  test("growth that no kernel goes on with has no speed", async () => {
    shown = await show({ _tree: unfinished(), _status: GROWING });
    expect(figures()[2]).toContain("nodes/s");
    shown.model.fire("comm_live_update");
    await vi.advanceTimersByTimeAsync(0);
    expect(shown.find(".sae-chip").textContent).toBe("no kernel");
    expect(figures()[2]).toBe("2 sso far");
  });

  test("nodes are those of the tree that grows, however far the kernel is", async () => {
    shown = await show({ _status: { ...STATUS, state: "growing" } });
    expect(shown.find(".sae-figures b").textContent).toBe("2");
  });

  test("the button for Cancel keeps the focus when there is nothing left to cancel", async () => {
    shown = await show({ _status: { ...STATUS, state: "growing" } });
    shown.button("Cancel").focus();
    shown.model.set("_status", STATUS);
    await vi.advanceTimersByTimeAsync(0);
    expect(document.activeElement).toBe(shown.find(".sae-action"));
    await click(shown.find(".sae-action"));
    expect(shown.asked("cancel")).toEqual([]);
  });

  test("progress is a number where it is known", async () => {
    shown = await show({ _status: { ...STATUS, state: "loading", progress: 0.25 } });
    const bar = shown.find("[role=progressbar]");
    expect(bar.getAttribute("aria-valuenow")).toBe("25");
    shown.model.set("_status", { ...STATUS, state: "growing", progress: null });
    await vi.advanceTimersByTimeAsync(0);
    expect(shown.find("[role=progressbar]").hasAttribute("aria-valuenow")).toBe(false);
  });

  test("the state is announced when it changes, not with every figure", async () => {
    shown = await show({ _status: { ...STATUS, state: "growing" } });
    const said = shown.find(".sae-status > [role=status]");
    expect(said.textContent).toBe("growing");
    shown.model.set("_status", { ...STATUS, state: "growing", nodes: 99999 });
    await vi.advanceTimersByTimeAsync(0);
    expect(said.textContent).toBe("growing");
    shown.model.set("_status", STATUS);
    await vi.advanceTimersByTimeAsync(0);
    expect(said.textContent).toBe("done");
  });
});

describe("what went wrong", () => {
  test("stands in plain words, and the result before it stays", async () => {
    shown = await show({ _status: { ...STATUS, state: "error", error: "Lower \u202emax_nodes." } });
    expect(shown.find("[role=alert]").textContent).toBe("Lower <U+202E>max_nodes.");
    expect(shown.el.querySelectorAll(".sae-tokens tbody tr").length).toBeGreaterThan(10);
    expect(() => shown.named("Dismiss")).toThrow();
  });

  test("a refusal can be dismissed, and the focus stays in the widget", async () => {
    shown = await show({ _status: { ...STATUS, state: "growing" } });
    await click(shown.button("Cancel"));
    await shown.answer("cancel", { ok: false, error: "Nothing runs." });
    expect(shown.find("[role=alert]").textContent).toBe("Nothing runs.");
    await click(shown.named("Dismiss"));
    expect(shown.find("[role=alert]").textContent).toBe("");
    expect(document.activeElement).toBe(shown.named("Feature to show"));
  });
});
