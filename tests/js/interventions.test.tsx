import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Intervention } from "../../js/src/state/protocol.ts";
import { interventionInWords } from "../../js/src/ui/interventions.tsx";
import { CONTROLS, choose, click, type Shown, show, VALUES, write } from "./explorer.tsx";
import { HOSTILE, INTERVENTIONS, option } from "./findings.ts";

const OWN = [
  option("second", "vector", "direction", null),
  option("interventions", "interventions", "interventions", []),
];
const controls = [
  ...OWN,
  ...CONTROLS.filter(({ name }) => !OWN.some((entry) => entry.name === name)),
];
const values = { ...VALUES, direction: null, second: null, interventions: [] as Intervention[] };
const open = (more: Record<string, unknown> = {}, state: Record<string, unknown> = {}) =>
  show({ _controls: controls, _values: { ...values, ...more }, ...state });

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  vi.useRealTimers();
});
const wanted = () => shown.asked("set").map(({ values: set }) => set);
const rows = () => [...shown.el.querySelectorAll<HTMLElement>(".sae-interventions li")];
const within = <T extends HTMLElement>(row: number, label: string) =>
  rows()[row].querySelector<T>(`[aria-label="${label}"]`) as T;
const note = () => shown.find(".sae-interventions .sae-note").textContent;
const add = () => click(shown.find(".sae-interventions .sae-option-head .sae-small-button"));

describe("an intervention", () => {
  test("is added with the explored feature, and counts once its strength is given", async () => {
    shown = await open();
    await add();
    expect(within<HTMLInputElement>(0, "Feature of the intervention").value).toBe("7");
    expect(document.activeElement).toBe(within(0, "Strength"));
    expect(wanted()).toEqual([]);
    expect(note()).toContain("counts once");
    await write(within<HTMLInputElement>(0, "Strength"), "0.5", "Enter");
    const steer = {
      kind: "steer",
      feature: 7,
      strength: 0.5,
      unit: "residual_norm",
      at: "all",
      skip_bos: false,
    };
    expect(wanted()).toEqual([{ interventions: [steer] }]);
  });

  test("that is begun here stands behind what is set elsewhere meanwhile", async () => {
    shown = await open({ interventions: INTERVENTIONS });
    await add();
    const set = [{ kind: "ablate", feature: 99, at: "all", skip_bos: false }];
    await act(async () => shown.model.set("_values", { ...values, interventions: set }));
    expect(rows().length).toBe(2);
    expect(within<HTMLInputElement>(0, "Feature of the intervention").value).toBe("99");
    await write(within<HTMLInputElement>(1, "Strength"), "2", "Enter");
    expect(wanted()).toMatchObject([{ interventions: [{ feature: 99 }, { strength: 2 }] }]);
  });

  const CASES: [string, () => Promise<unknown>, Partial<Intervention>][] = [
    [
      "another feature",
      () => write(within<HTMLInputElement>(0, "Feature of the intervention"), "17", "Enter"),
      { feature: 17 },
    ],
    [
      "a sum of features",
      () => write(within<HTMLInputElement>(0, "Feature of the intervention"), "17 - 4", "Enter"),
      { feature: "17 - 4" },
    ],
    [
      "a strength",
      () => write(within<HTMLInputElement>(0, "Strength"), "−2", "Enter"),
      { strength: -2 },
    ],
    [
      "a unit",
      () => choose(within<HTMLSelectElement>(0, "Unit"), "absolute"),
      { unit: "absolute" },
    ],
    ["a place", () => choose(within<HTMLSelectElement>(0, "Where"), "ghost"), { at: "ghost" }],
    [
      "BOS",
      () => choose(rows()[0].querySelector("input[type=checkbox]") as HTMLInputElement),
      { skip_bos: false },
    ],
  ];
  test.each(CASES)("takes %s", async (_, change, expected) => {
    shown = await open({ interventions: INTERVENTIONS });
    await change();
    expect(wanted()).toEqual([
      { interventions: [{ ...INTERVENTIONS[0], ...expected }, INTERVENTIONS[1]] },
    ]);
  });

  test("of another kind keeps its feature, its place and its number", async () => {
    shown = await open({ interventions: [INTERVENTIONS[0]] });
    await choose(within<HTMLSelectElement>(0, "What is done"), "clamp");
    const clamp = {
      kind: "clamp",
      feature: 4021,
      value: 0.5,
      unit: "absolute",
      at: "generated",
      skip_bos: true,
    };
    expect(wanted()).toEqual([{ interventions: [clamp] }]);
    await vi.advanceTimersByTimeAsync(200);
    await choose(within<HTMLSelectElement>(0, "What is done"), "ablate");
    expect(wanted().at(-1)).toEqual({
      interventions: [{ kind: "ablate", feature: 4021, at: "generated", skip_bos: true }],
    });
  });

  test("takes places by number, and waits for them", async () => {
    shown = await open({ interventions: [INTERVENTIONS[0]] });
    await choose(within<HTMLSelectElement>(0, "Where"), "list");
    expect(wanted()).toEqual([]);
    await write(within<HTMLInputElement>(0, "Places"), "3, x", "Enter");
    expect(within(0, "Places").getAttribute("aria-invalid")).toBe("true");
    await write(within<HTMLInputElement>(0, "Places"), "3, -1", "Enter");
    expect(wanted()).toEqual([{ interventions: [{ ...INTERVENTIONS[0], at: [3, -1] }] }]);
  });

  test("says what Python leaves out because it is the default", async () => {
    shown = await open({ interventions: [{ kind: "steer", feature: 3, strength: 0.5 }] });
    expect(within<HTMLSelectElement>(0, "Unit").value).toBe("absolute");
    expect(within<HTMLSelectElement>(0, "Where").value).toBe("all");
    await choose(within<HTMLSelectElement>(0, "Where"), "prompt");
    expect(wanted()).toEqual([
      { interventions: [{ kind: "steer", feature: 3, strength: 0.5, at: "prompt" }] },
    ]);
  });

  test("is removed, and the focus stays among them", async () => {
    shown = await open({ interventions: INTERVENTIONS });
    await click(rows()[0].querySelector("button") as HTMLButtonElement);
    expect(wanted()).toEqual([{ interventions: [INTERVENTIONS[1]] }]);
    expect(document.activeElement?.closest(".sae-interventions")).not.toBeNull();
  });

  test("that the kernel refuses stays to be mended, with the reason beside it", async () => {
    shown = await open({ interventions: [INTERVENTIONS[1]] });
    await write(within<HTMLInputElement>(0, "Feature of the intervention"), "99999", "Enter");
    await shown.answer("set", { ok: false, error: "There is no feature 99999." });
    expect(note()).toBe("There is no feature 99999.");
    expect(within<HTMLInputElement>(0, "Feature of the intervention").value).toBe("99999");
    await click(shown.button("Discard the change"));
    expect(within<HTMLInputElement>(0, "Feature of the intervention").value).toBe("9");
    expect(note()).toBe("");
  });

  test("that the kernel writes in other words is shown as the kernel has it", async () => {
    shown = await open({ interventions: [INTERVENTIONS[0]] });
    await write(within<HTMLInputElement>(0, "Strength"), "2", "Enter");
    const told = { ...INTERVENTIONS[0], strength: 2.5 };
    await act(async () => shown.model.set("_values", { ...values, interventions: [told] }));
    expect(within<HTMLInputElement>(0, "Strength").value).toBe("2.5");
  });

  test("on what is generated says that the first node is predicted before", async () => {
    shown = await open({ interventions: INTERVENTIONS });
    expect(note()).toContain("which predicts the first node");
  });

  test("cannot be changed in a saved copy", async () => {
    shown = await open({ interventions: INTERVENTIONS }, { _saved: true });
    const fields = [
      ...shown.el.querySelectorAll<HTMLInputElement>(
        ".sae-interventions :is(input, select, button)",
      ),
    ];
    expect(fields.length).toBeGreaterThan(8);
    expect(fields.every(({ disabled }) => disabled)).toBe(true);
  });
});

test.each([
  [INTERVENTIONS[0], "steer feature 4021 by 0.5 × residual norm, in: generated, not BOS"],
  [INTERVENTIONS[1], "ablate feature 9, at 0, -1"],
  [{ kind: "clamp", feature: 17, value: 8, unit: "absolute", at: "all" }, "clamp feature 17 at 8"],
  [
    { kind: "steer", feature: "4021 - 17", strength: 2, unit: "max_activation" },
    "steer 4021 - 17 by 2 × largest activation",
  ],
])("in words: %#", (intervention, words) => {
  expect(interventionInWords(intervention as Intervention)).toBe(words);
});

describe("a direction", () => {
  test("is written as text; emptied, it gives way to the feature before", async () => {
    shown = await open();
    await write(shown.named("Direction"), " 4021 - 17 ", "Enter");
    expect(wanted()).toEqual([{ direction: "4021 - 17" }]);
    await vi.advanceTimersByTimeAsync(200);
    await act(async () => shown.model.set("_values", { ...values, direction: "4021 - 17" }));
    await write(shown.named("Direction"), "", "Enter");
    expect(wanted().at(-1)).toEqual({ direction: null, feature: 7 });
  });

  test("stands in the header in place of the number, with a way back", async () => {
    shown = await open();
    await act(async () =>
      shown.model.set("_values", { ...values, feature: null, direction: `4021 ${HOSTILE}` }),
    );
    expect(shown.find(".sae-direction").textContent).toContain("4021 </script>");
    expect(shown.named("Feature to show").value).toBe("");
    await click(shown.named("Back to a feature"));
    expect(wanted()).toEqual([{ direction: null, feature: 7 }]);
    await write(shown.named("Feature to show"), "12", "Enter");
    expect(wanted().at(-1)).toEqual({ direction: null, feature: 12 });
  });

  test("for a second ghost is folded away until the prompt has one", async () => {
    shown = await open();
    expect(shown.el.querySelector("[data-option=second] details")).not.toBeNull();
    const prompt = '"{ghost}" and "{ghost2}"';
    await act(async () => shown.model.set("_values", { ...values, prompt }));
    expect(shown.el.querySelector("[data-option=second] details")).toBeNull();
    await write(shown.named("Second direction"), "17", "Enter");
    expect(wanted()).toEqual([{ second: "17" }]);
  });
});
