import { describe, expect, test } from "vitest";
import { joinTokens, visible, visibleToken } from "../../js/src/text.ts";
import cases from "../visible.json";

describe("text is shown as Python shows it", () => {
  test.each(cases)("$visible", ({ text, visible: expected, token }) => {
    expect(visible(text)).toBe(expected);
    expect(visibleToken(text)).toBe(token);
  });

  // Not in the shared file, since no JSON in UTF-8 should hold one.
  test("half of a surrogate pair is spelled out", () => {
    expect(visible("\ud800")).toBe("<U+D800>");
  });

  test("bytes that make up a character become that character", () => {
    expect(joinTokens([" caf", "<0xC3>", "<0xA9>", "!"])).toBe(" café!");
    expect(joinTokens(["<0xC3>"])).toBe("\ufffd");
    expect(joinTokens([" <0xE2><0x80>", "<0x99>s"])).toBe(" ’s");
    expect(joinTokens(["<0", "xC3>"])).toBe("<0xC3>");
  });
});
