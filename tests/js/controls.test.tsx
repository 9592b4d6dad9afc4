import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  CONTROLS,
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

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  // What signals have put off is done, or those of the next test would wait for it for ever.
  vi.runOnlyPendingTimers();
  vi.useRealTimers();
});

const wanted = () => shown.asked("set").map(({ values }) => values);
const slider = (label: string) =>
  shown.find<HTMLInputElement>(`input[type=range][aria-label="${label}"]`);
const number = (label: string) =>
  shown.find<HTMLInputElement>(`input[type=text][aria-label="${label}"]`);

/** The options that have a control wherever no analysis was asked for. */
const DRAWN = CONTROLS.filter(({ group }) =>
  ["vector", "interventions", "tree", "tokens"].includes(group),
);

async function ablate(feature: number) {
  await click(shown.find("[data-option=interventions] .sae-small-button"));
  const field = <T extends HTMLElement>(label: string) =>
    shown.find<T>(`[data-option=interventions] [aria-label="${label}"]`);
  await write(field<HTMLInputElement>("Feature of the intervention"), String(feature), "Enter");
  await choose(field<HTMLSelectElement>("What is done"), "ablate");
}

async function openFilters() {
  await act(async () => {
    const filters = shown.find<HTMLDetailsElement>(".sae-tokens details.sae-filters");
    filters.open = true;
    filters.dispatchEvent(new Event("toggle"));
  });
}

describe("every option of the schema has a control that sends it", () => {
  const CASES: [string, () => Promise<unknown>, unknown][] = [
    ["weights", () => choose(shown.find<HTMLInputElement>("input[value=decoder]")), "decoder"],
    ["scale", () => write(number("Scale"), "2.5", "Enter"), 2.5],
    ["centroid", () => choose(shown.named("Centroid")), true],
    ["pca", () => click(shown.named("Add a component")), [0]],
    [
      "prompt",
      () => write(shown.named<HTMLTextAreaElement>("Prompt"), "A {ghost} is", "Enter"),
      "A {ghost} is",
    ],
    ["second", () => write(number("Second direction"), "17", "Enter"), "17"],
    ["ghost_token", () => write(number("Ghost token"), "OK", "Enter"), "OK"],
    ["cutoff", () => write(number("Cutoff"), "1e-6", "Enter"), 1e-6],
    ["top_k", () => write(slider("Tokens per node"), "6"), 7],
    ["max_depth", () => press(number("Depth limit"), "ArrowDown"), 24],
    ["max_nodes", () => write(number("Node limit"), "", "Enter"), null],
    ["lift", () => write(slider("Lift"), "8"), 8],
    ["lift_seed", () => write(number("Lift seed"), "3", "Enter"), 3],
    [
      "interventions",
      () => ablate(9),
      [{ kind: "ablate", feature: 9, at: "all", skip_bos: false }],
    ],
    ["exponent", () => write(slider("Exponent"), "190"), 2],
    ["limit", () => write(number("List length"), "250", "Enter"), 250],
    ["pattern", () => write(number("Pattern"), "^ [a-z]+$", "Enter"), "^ [a-z]+$"],
    ["script", () => choose(shown.named<HTMLSelectElement>("Script"), "Greek"), "Greek"],
    ["min_length", () => write(number("Least length"), "3", "Enter"), 3],
    [
      "leading_space",
      () => choose(shown.named<HTMLSelectElement>("Leading space"), "false"),
      false,
    ],
  ];

  const names = CONTROLS.map(({ name }) => name);

  test("the table names them all", () => {
    shown = { close() {} } as Shown;
    const known = CASES.map(([name]) => name);
    expect(DRAWN.map(({ name }) => name).filter((name) => !known.includes(name))).toEqual([]);
  });

  test.each(CASES.filter(([name]) => names.includes(name)))("%s", async (name, change, value) => {
    shown = await show();
    await openFilters();
    await change();
    expect(wanted()).toEqual([{ [name]: value }]);
  });

  test.each(DRAWN.filter(({ name }) => name !== "exponent"))(
    "$name is explained",
    async ({ name, help }) => {
      shown = await show();
      await openFilters();
      const option = shown.find(`[data-option=${name}]`);
      const text = option.querySelector(".sae-help") as HTMLElement;
      expect(text.textContent).toContain(help);
      const described = [...option.querySelectorAll("[aria-describedby]")];
      expect(
        described.some((field) => field.getAttribute("aria-describedby")?.includes(text.id)),
      ).toBe(true);
    },
  );

  test("a label that is not the name in Python says that as well", async () => {
    shown = await show();
    const help = (name: string) => shown.find(`[data-option=${name}] .sae-help`).textContent;
    expect(help("top_k")).toMatch(/ In Python: top_k\.$/);
    expect(help("cutoff")).not.toContain("In Python");
  });

  test("the way back to the default ends at what it has changed", async () => {
    shown = await show({ _values: { ...VALUES, cutoff: 1e-3 } });
    const back = shown.find<HTMLButtonElement>("[data-option=cutoff] .sae-dot");
    back.focus();
    await click(back);
    expect(document.activeElement).toBe(number("Cutoff"));
  });

  test("without a component left, the focus goes to what adds one", async () => {
    shown = await show({ _values: { ...VALUES, pca: [0.5] } });
    await click(shown.named("Remove the last component"));
    expect(document.activeElement).toBe(shown.named("Add a component"));
  });
});

describe("null", () => {
  test("is shown as what it means for this subject", async () => {
    shown = await show();
    expect(number("Scale").value).toBe("");
    expect(number("Scale").placeholder).toBe("3.8");
    expect(shown.find("[data-option=scale] .sae-tag").textContent).toBe("default");
    expect(slider("Scale").getAttribute("aria-valuetext")).toBe("3.8");
    expect(number("Ghost token").placeholder).toBe("OSS");
  });

  test("is a default while the model is being loaded, not a number", async () => {
    shown = await show({ _subject: null });
    expect(number("Scale").placeholder).toBe("default");
  });

  test("of a budget is no limit", async () => {
    shown = await show({ _values: { ...VALUES, max_nodes: null } });
    expect(number("Node limit").placeholder).toBe("no limit");
    expect(slider("Node limit").value).toBe(slider("Node limit").max);
  });

  test("cannot be had where an option needs a value", async () => {
    shown = await show();
    await write(number("Cutoff"), "", "Enter");
    expect(number("Cutoff").getAttribute("aria-invalid")).toBe("true");
    expect(wanted()).toEqual([]);
  });
});

describe("while a slider is dragged", () => {
  test("it sends at once, then one message in 150 ms, and the last value", async () => {
    shown = await show();
    for (const position of ["10", "20", "30", "40"]) await write(slider("Scale"), position);
    expect(wanted()).toEqual([{ scale: 1.1 }]);
    await vi.advanceTimersByTimeAsync(150);
    expect(wanted()).toEqual([{ scale: 1.1 }, { scale: 4.1 }]);
    await vi.advanceTimersByTimeAsync(1000);
    expect(wanted().length).toBe(2);
  });

  test("an answer to an earlier position does not move it back", async () => {
    shown = await show();
    await write(slider("Scale"), "10");
    await write(slider("Scale"), "40");
    await act(async () => shown.model.set("_values", { ...VALUES, scale: 1.1 }));
    expect(number("Scale").value).toBe("4.1");
    await vi.advanceTimersByTimeAsync(150);
    await act(async () => shown.model.set("_values", { ...VALUES, scale: 4.1 }));
    await act(async () => shown.model.set("_values", { ...VALUES, scale: 7 }));
    expect(number("Scale").value).toBe("7");
  });

  test("a refusal shows, and takes the control back to what holds", async () => {
    shown = await show();
    await write(number("Cutoff"), "2", "Enter");
    expect(number("Cutoff").value).toBe("2");
    await shown.answer("set", { ok: false, error: "cutoff is 2; it must be at most 1." });
    expect(shown.find("[role=alert]").textContent).toContain("at most 1");
    expect(number("Cutoff").value).toBe("5e-5");
  });

  test("what is asked of a silent kernel stands, and gives way to what it makes of it", async () => {
    shown = await show();
    await write(slider("Scale"), "10");
    await act(async () => void (await vi.advanceTimersByTimeAsync(12_000)));
    expect(number("Scale").value).toBe("1.1");
    await shown.answer("set", { ok: true });
    await act(async () => void (await vi.advanceTimersByTimeAsync(6000)));
    expect(number("Scale").value).toBe("");
  });
});

describe("the way back", () => {
  test("a dot beside what was changed resets it alone", async () => {
    shown = await show({ _values: { ...VALUES, scale: 2, top_k: 9 } });
    await click(shown.find("[data-option=scale] .sae-dot"));
    expect(wanted()).toEqual([{ scale: null }]);
    expect(shown.find<HTMLButtonElement>("[data-option=cutoff] .sae-dot").disabled).toBe(true);
  });

  test("a button resets all", async () => {
    shown = await show();
    await click(shown.button("Reset to defaults"));
    expect(shown.asked("reset").length).toBe(1);
  });
});

describe("a mix of encoder and decoder", () => {
  test("begins half and half and is set by the slider or as numbers", async () => {
    shown = await show();
    await choose(shown.find<HTMLInputElement>("input[value=mix]"));
    expect(wanted()).toEqual([{ weights: [0.5, 0.5] }]);
    await act(async () => shown.model.set("_values", { ...VALUES, weights: [0.5, 0.5] }));
    await vi.advanceTimersByTimeAsync(200);
    await write(slider("Share of the decoder"), "5");
    expect(wanted().at(-1)).toEqual({ weights: [0.75, 0.25] });
    await vi.advanceTimersByTimeAsync(200);
    await write(number("Coefficients of encoder and decoder"), "1, −0.5", "Enter");
    expect(wanted().at(-1)).toEqual({ weights: [1, -0.5] });
  });

  test("of anything but two numbers is not sent", async () => {
    shown = await show({ _values: { ...VALUES, weights: [0.5, 0.5] } });
    await write(number("Coefficients of encoder and decoder"), "1 2 3", "Enter");
    expect(wanted()).toEqual([]);
    expect(number("Coefficients of encoder and decoder").getAttribute("aria-invalid")).toBe("true");
  });
});

describe("principal components", () => {
  test("their weights never add up to more than 1 by dragging", async () => {
    shown = await show({ _values: { ...VALUES, pca: [0.3, 0.2] } });
    await write(slider("Weight of PC 1"), "100");
    expect(wanted()).toEqual([{ pca: [0.8, 0.2] }]);
  });

  test("the last can be removed", async () => {
    shown = await show({ _values: { ...VALUES, pca: [0.3, 0.2] } });
    await click(shown.named("Remove the last component"));
    expect(wanted()).toEqual([{ pca: [0.3] }]);
  });
});

describe("the prompt", () => {
  test("without its placeholder says so and is not sent", async () => {
    shown = await show();
    const prompt = shown.named<HTMLTextAreaElement>("Prompt");
    await write(prompt, "A thing is", "Enter");
    expect(wanted()).toEqual([]);
    expect(shown.find("[data-option=prompt] .sae-note").textContent).toContain(
      "{ghost} is missing",
    );
    prompt.setSelectionRange(2, 7);
    await click(shown.button("Insert {ghost}"));
    expect(prompt.value).toBe("A {ghost} is");
    await press(prompt, "Enter");
    expect(wanted()).toEqual([{ prompt: "A {ghost} is" }]);
  });

  test("Escape takes back what was written, and cancels nothing", async () => {
    shown = await show({ _status: { ...STATUS, state: "growing" } });
    const prompt = shown.named<HTMLTextAreaElement>("Prompt");
    await write(prompt, "other {ghost}", "Escape");
    expect(prompt.value).toBe(VALUES.prompt);
    expect(shown.asked("cancel")).toEqual([]);
  });
});

describe("without a kernel", () => {
  test("a saved copy says why nothing can be changed, and only the exponent moves", async () => {
    shown = await show({ _saved: true });
    await openFilters();
    expect(shown.find(".sae-reason").textContent).toContain("saved copy");
    const fields = [...shown.el.querySelectorAll<HTMLInputElement>("input, select, textarea")];
    const alive = fields
      .filter((field) => !field.disabled)
      .map((field) => field.getAttribute("aria-label"));
    expect(alive).toEqual(expect.arrayContaining(["Exponent", "Find in the list"]));
    for (const { name } of DRAWN.filter(({ name }) => name !== "exponent")) {
      const own = [
        ...shown
          .find(`[data-option=${name}]`)
          .querySelectorAll<HTMLInputElement>("input, select, textarea, button"),
      ];
      expect(own.every((field) => field.disabled)).toBe(true);
    }
    await write(slider("Exponent"), "190");
    expect(shown.model.sent).toEqual([]);
  });

  test("an SAE's absence leaves the rest", async () => {
    shown = await show({
      _subject: { ...SUBJECT, sae: "", width: 0, layer: null, neuronpedia: null, featured: [] },
    });
    expect(shown.find(".sae-subject").textContent).toBe("google/gemma-2b · no SAE");
    expect(shown.named<HTMLButtonElement>("Next feature").disabled).toBe(true);
  });
});

test("analyses that run on request have the options of their own beside them", async () => {
  shown = await show();
  const options = CONTROLS.filter(({ group }) => ["scales", "loop"].includes(group));
  expect(options.length).toBeGreaterThan(2);
  for (const { name } of options) {
    expect(shown.find(`.sae-settings [data-option=${name}] :is(input, select)`)).not.toBeNull();
  }
});
