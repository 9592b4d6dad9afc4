import { describe, expect, test } from "vitest";
import type { Control } from "../../js/src/state/protocol.ts";
import {
  count,
  decimals,
  duration,
  exactPercent,
  numberIn,
  percent,
  plain,
} from "../../js/src/ui/format.ts";
import { scaleOf } from "../../js/src/ui/slider.tsx";
import { CONTROLS } from "./explorer.tsx";

describe("numbers as text", () => {
  test.each([
    [1, "100.0 %"],
    [0.123, "12.3 %"],
    [0.0567, "5.67 %"],
    [0.0082, "0.82 %"],
    [0.000031, "0.0031 %"],
    [0.0002, "0.020 %"],
    [0.0000094, "0.0009 %"],
    [2e-9, "<0.0001 %"],
    [0, "0 %"],
  ])("percent(%d) is %s", (value, text) => expect(percent(value)).toBe(text));

  test.each([
    [0.000031, "0.0031 %"],
    [0.0000094, "9.4e-4 %"],
    [2e-9, "2.0e-7 %"],
    [0, "0 %"],
  ])("exactPercent(%d) is %s", (value, text) => expect(exactPercent(value)).toBe(text));

  test.each([
    [3.8, "3.8"],
    [5e-5, "5e-5"],
    [0.1 + 0.2, "0.3"],
    [50_000, "50000"],
    [-0.5, "-0.5"],
    [0, "0"],
  ])("plain(%d) is %s", (value, text) => expect(plain(value)).toBe(text));

  test.each([
    [-0.0123, 3, "−0.012"],
    [0.5, 4, "0.5000"],
    [12345678, 4, "1.23e7"],
  ])("decimals(%d, %d) is %s", (value, places, text) => expect(decimals(value, places)).toBe(text));

  test.each([
    ["50,000", 50_000],
    ["−0.5", -0.5],
    [" 1e-6 ", 1e-6],
    ["2,5", Number.NaN],
    ["", Number.NaN],
    ["ten", Number.NaN],
  ])("%j says %d", (text, value) => expect(numberIn(text)).toBe(value));

  test.each([
    [0.0512, "0.051 s"],
    [1.234, "1.2 s"],
    [83.6, "84 s"],
    [1234, "1,234 s"],
  ])("duration(%d) is %s", (value, text) => expect(duration(value)).toBe(text));

  test("count(8192) is 8,192", () => expect(count(8192)).toBe("8,192"));
});

describe("a slider's scale", () => {
  const sliding = CONTROLS.filter((control) => control.slider);

  test.each(sliding.map((control) => [control.name, control] as [string, Control]))(
    "%s: reaches both ends, and every step comes to another value that finds its place again",
    (_name, control) => {
      const scale = scaleOf(control);
      if (!scale) throw new Error("no scale");
      const values = Array.from({ length: scale.steps + 1 }, (_, at) => scale.value(at));
      expect([values[0], values.at(-1)]).toEqual(control.slider);
      for (const [at, value] of values.entries()) {
        if (at) expect(value).toBeGreaterThan(values[at - 1]);
        expect(scale.position(value)).toBe(at);
        if (control.kind === "int") expect(Number.isInteger(value)).toBe(true);
      }
    },
  );

  test("a value beyond the range stands at its end", () => {
    const scale = scaleOf(CONTROLS.find(({ name }) => name === "cutoff") as Control);
    expect(scale?.position(1)).toBe(scale?.steps);
    expect(scale?.position(1e-12)).toBe(0);
  });
});
