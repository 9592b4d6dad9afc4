import { act } from "preact/test-utils";
import { afterEach, describe, expect, test, vi } from "vitest";
import { PANELS } from "../../js/src/panels/index.ts";
import { click, press, type Shown, STATUS, show } from "./explorer.tsx";

let shown: Shown | null = null;
afterEach(() => {
  shown?.close();
  shown = null;
  document.body.removeAttribute("style");
});

describe("keys", () => {
  test.each(["loading", "growing"])("Escape cancels what is %s", async (state) => {
    shown = await show({ _status: { ...STATUS, state } });
    await press(shown.named("Top k"), "Escape");
    expect(shown.asked("cancel").length).toBe(1);
  });

  test("Escape cancels nothing that is done", async () => {
    shown = await show();
    await press(shown.find(".sae-app"), "Escape");
    expect(shown.asked("cancel")).toEqual([]);
  });

  test("none of them leaves the widget", async () => {
    shown = await show();
    const heard = vi.fn();
    for (const kind of ["keydown", "keyup", "keypress"]) shown.el.addEventListener(kind, heard);
    for (const key of ["b", "Escape", "Enter", "]", "ArrowDown"]) {
      await press(shown.named("Prompt"), key);
      await press(shown.find("[role=tab]"), key);
    }
    expect(heard).not.toHaveBeenCalled();
  });
});

describe("panels", () => {
  test("are those of the table: the first in the middle, the others as tabs", async () => {
    shown = await show();
    const tabs = [...shown.el.querySelectorAll(".sae-tabs [role=tab]")].map(
      (tab) => tab.textContent,
    );
    expect([shown.find(".sae-main").getAttribute("aria-label"), ...tabs]).toEqual(
      PANELS.map(({ title }) => title),
    );
  });

  test("tabs are chosen by click and by arrow, and a hidden list keeps its order", async () => {
    shown = await show();
    const tabs = () => [
      ...(shown as Shown).el.querySelectorAll<HTMLElement>(".sae-tabs [role=tab]"),
    ];
    const open = () => tabs().map((tab) => tab.getAttribute("aria-selected"));
    const id = [...shown.el.querySelectorAll<HTMLElement>(".sae-tokens th button")].at(
      -1,
    ) as HTMLElement;
    await click(id);
    await click(tabs()[1]);
    expect(open()).toEqual(["false", "true"]);
    await press(tabs()[1], "ArrowRight");
    expect(open()).toEqual(["true", "false"]);
    expect(document.activeElement).toBe(tabs()[0]);
    expect(id.closest("th")?.getAttribute("aria-sort")).toBe("ascending");
  });

  test("controls fold and come back", async () => {
    shown = await show();
    const fold = shown.find(".sae-fold");
    const before = fold.getAttribute("aria-expanded");
    await click(fold);
    expect(fold.getAttribute("aria-expanded")).not.toBe(before);
    await click(fold);
    expect(fold.getAttribute("aria-expanded")).toBe(before);
  });
});

describe("theme", () => {
  test.each([
    ["rgb(255, 255, 255)", "light"],
    ["rgb(17, 17, 17)", "dark"],
  ])("%s behind it is %s", async (background, scheme) => {
    document.body.style.backgroundColor = background;
    shown = await show();
    expect(shown.find(".sae-explorer").style.colorScheme).toBe(scheme);
  });

  test("follows the host", async () => {
    document.body.style.backgroundColor = "rgb(255, 255, 255)";
    shown = await show();
    document.body.style.backgroundColor = "rgb(0, 0, 0)";
    document.body.setAttribute("data-jp-theme-light", "false");
    await vi.waitFor(() =>
      expect((shown as Shown).find(".sae-explorer").style.colorScheme).toBe("dark"),
    );
  });
});

test("closing leaves no listener, observer or element behind", async () => {
  const observed = vi.spyOn(MutationObserver.prototype, "disconnect");
  const resized = vi.spyOn(ResizeObserver.prototype, "disconnect");
  const watching = vi.spyOn(ResizeObserver.prototype, "observe");
  const added = vi.spyOn(document, "addEventListener");
  const one = await show();
  expect(one.model.listening()).toBeGreaterThan(0);
  await act(async () => one.close());
  expect(one.model.listening()).toBe(0);
  expect(observed).toHaveBeenCalled();
  for (const observer of watching.mock.contexts) expect(resized.mock.contexts).toContain(observer);
  expect(added).not.toHaveBeenCalled();
  expect(document.querySelector(".sae-explorer")).toBeNull();
});
