import { afterEach, describe, expect, test, vi } from "vitest";
import { choose, click, lensPayload, type Shown, show } from "./explorer.tsx";

let shown: Shown;
afterEach(() => shown.close());

const rows = (label: string) =>
  [...shown.find(`table[aria-label="${label}"]`).querySelectorAll("tbody tr")].map((row) =>
    [...row.children].map((cell) => cell.textContent),
  );

describe("logit lens", () => {
  test("top and bottom side by side, the most extreme first", async () => {
    shown = await show();
    expect(rows("top, normalised")).toEqual([
      ["␣normalised-top-1", "4.00"],
      ["␣normalised-top-2", "3.00"],
      ["</script><img␣src=x␣onerror=alert(1)>", "2.00"],
    ]);
    expect(rows("bottom, normalised")[0]).toEqual(["␣normalised-bottom-1", "−4.00"]);
    expect(shown.el.querySelector("img, script")).toBeNull();
  });

  test("switches to the raw reading", async () => {
    shown = await show();
    await choose(shown.find<HTMLInputElement>("input[value=raw]"));
    expect(rows("top, raw")[0]).toEqual(["␣raw-top-1", "4.00"]);
    expect(shown.find(".sae-lens .sae-foot").textContent).toBe("decoder of feature 7, as it is");
  });

  test("copies both lists of the reading that is shown", async () => {
    shown = await show();
    const written = vi.fn(async (_text: string) => {});
    vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText: written } });
    await click(shown.find(".sae-lens .sae-take button"));
    const lines = written.mock.calls[0][0].split("\n");
    expect(lines.length).toBe(7);
    expect(lines[4]).toBe("normalised\tbottom\t1\t normalised-bottom-1\t-4\t3");
    vi.unstubAllGlobals();
  });

  test("a ghost that it cannot read is said to be one", async () => {
    shown = await show({ _lens: null });
    expect(shown.el.textContent).toContain("The logit lens reads a feature or a vector.");
  });

  test("a logit of zero everywhere is drawn", async () => {
    const payload = lensPayload();
    new Uint8Array(payload.logit.data.buffer).fill(0);
    shown = await show({ _lens: payload });
    expect(rows("top, normalised")[0][1]).toBe("0.00");
  });
});
