import { afterEach, describe, expect, test, vi } from "vitest";
import type { DosePayload } from "../../js/src/state/protocol.ts";
import { click, press, type Shown, show } from "./explorer.tsx";
import { dosePayload, job, REQUESTED } from "./requested.ts";

let shown: Shown;
afterEach(() => shown.close());

const see = async (more: Partial<DosePayload> = {}) => {
  shown = await show({
    ...REQUESTED,
    _dose: dosePayload(more),
    _jobs: { dose: job({ state: "done" }) },
  });
};
const charts = () => [...shown.el.querySelectorAll<HTMLElement>(".sae-charts [role=slider]")];
const captions = () =>
  [...shown.el.querySelectorAll(".sae-charts figcaption")].map(
    (caption) => caption.firstChild?.textContent,
  );
const figures = () =>
  [...shown.el.querySelectorAll(".sae-dose dl > div")].map((pair) =>
    [...pair.children].map((part) => part.textContent).join(" "),
  );

describe("dose-response", () => {
  test("has a chart for each measure that there is", async () => {
    await see();
    expect(captions()).toEqual([
      "Change of the next token",
      "Entropy of the top 10",
      "Perplexity of the text",
      "Probability of targets",
      "Activation in the text",
    ]);
    shown.close();
    const none = dosePayload().strength.map(() => null);
    await see({ targets: [], perplexity: none, activations: [{ feature: 302, activation: none }] });
    expect(captions()).toEqual(["Change of the next token", "Entropy of the top 10"]);
  });

  test("begins at the strength that changes nothing", async () => {
    await see();
    expect(figures()).toEqual([
      "strength 0",
      "KL 0",
      "H 2",
      "PPL 4",
      "P(␣dog) 0.5",
      "feature 302 0",
      "feature 17 1",
    ]);
    expect(shown.find(".sae-dose-text").textContent).toBe(" text at 0");
  });

  test("one rule goes through all charts, and says all values", async () => {
    await see();
    await press(charts()[3], "End");
    expect(charts().map((chart) => chart.getAttribute("aria-valuenow"))).toEqual(
      charts().map(() => "15"),
    );
    expect(charts()[0].getAttribute("aria-valuetext")).toBe(
      "strength 1.13, KL 3.8, H 0.875, PPL 711, P(␣dog) 0.996, feature 302 4.5, feature 17 0.438",
    );
    expect(shown.find(".sae-dose-text").textContent).toBe(" text at 1.125");
  });

  test("a strength without a text is said to have none of its figures", async () => {
    await see();
    await press(charts()[0], "Home");
    expect(figures()).toContain("PPL –");
  });

  test.each([
    [0.5, ["unsteered", "½ norm"]],
    [null, ["unsteered"]],
    [7, ["unsteered"]],
  ])("marks half the norm, %s, where it is in sight", async (half_norm, expected) => {
    await see({ half_norm });
    const marks = [...charts()[0].querySelectorAll(".sae-mark + text")];
    expect(marks.map((mark) => mark.textContent)).toEqual(expected);
  });

  test("an activation held at nothing is called ablated", async () => {
    await see({ half_norm: null, request: { action: "clamp" } });
    expect(charts()[0].querySelector(".sae-mark + text")?.textContent).toBe("ablated");
  });

  test("the same is there as a table", async () => {
    await see();
    const rows = [...shown.find('table[aria-label="Dose-response"]').querySelectorAll("tr")].map(
      (row) => [...row.children].map((cell) => cell.textContent),
    );
    expect(rows.length).toBe(17);
    expect(rows[0]).toEqual(["strength", "KL", "H", "PPL", "P(␣dog)", "feature 302", "feature 17"]);
    expect(rows[1]).toEqual(["−0.75", "1.69", "2.75", "–", "0.023", "0", "1.38"]);
  });

  test("is copied with its texts", async () => {
    await see();
    const written = vi.fn(async (_text: string) => {});
    vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText: written } });
    await click(shown.find(".sae-requested .sae-take button"));
    const lines = written.mock.calls[0][0].split("\n");
    expect(lines[1].split("\t").slice(0, 4)).toEqual(["-0.75", "1.6875", "2.75", ""]);
    expect(lines[16].split("\t").at(-1)).toBe(" text at 1.125");
    vi.unstubAllGlobals();
  });

  test("what has only begun is drawn as far as it is", async () => {
    await see({ kl: [1, 2], entropy: [], perplexity: [], targets: [], activations: [], texts: [] });
    expect(captions()).toEqual(["Change of the next token"]);
    expect(shown.el.querySelector(".sae-dose-text")).toBeNull();
    shown.close();
    await see({ strength: [], kl: [], entropy: [], perplexity: [], targets: [], activations: [] });
    expect(shown.el.textContent).toContain("No strength has been run yet.");
  });
});
