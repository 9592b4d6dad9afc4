import { act } from "preact/test-utils";
import { afterEach, describe, expect, test, vi } from "vitest";
import { PANELS } from "../../js/src/panels/index.ts";
import { click, press, type Shown, STATUS, show } from "./explorer.tsx";
import { job, steeringPayload } from "./requested.ts";

let shown: Shown | null = null;
afterEach(() => {
  shown?.close();
  shown = null;
  document.body.removeAttribute("style");
});

describe("keys", () => {
  test.each(["loading", "growing"])("Escape cancels what is %s", async (state) => {
    shown = await show({ _status: { ...STATUS, state } });
    await press(shown.named("Tokens per node"), "Escape");
    expect(shown.asked("cancel").length).toBe(1);
  });

  test("Escape cancels an analysis that runs", async () => {
    shown = await show({
      _jobs: { dose: job({ state: "running" }), loop: job({ state: "done" }) },
    });
    await press(shown.find(".sae-app"), "Escape");
    expect(shown.asked("cancel")).toMatchObject([{ panel: "dose" }]);
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
  const tabs = (list: string) => [
    ...(shown as Shown)
      .find(`[role=tablist][aria-label="${list}"]`)
      .querySelectorAll<HTMLElement>("[role=tab]"),
  ];
  const titles = (list: string) => tabs(list).map((tab) => tab.textContent);
  const open = (list: string) =>
    tabs(list).findIndex((tab) => tab.getAttribute("aria-selected") === "true");

  test.each([
    ["Analyses", "main"],
    ["Lists", "side"],
  ])("%s are those of the table", async (list, place) => {
    shown = await show();
    const own = PANELS.filter((panel) => panel.place === place);
    expect(titles(list)).toEqual(own.map(({ title }) => title));
  });

  test("tabs are chosen by click and by arrow, and a hidden list keeps its order", async () => {
    shown = await show();
    const id = [...shown.el.querySelectorAll<HTMLElement>(".sae-tokens th button")].at(
      -1,
    ) as HTMLElement;
    await click(id);
    await click(tabs("Lists")[1]);
    expect(open("Lists")).toBe(1);
    await press(tabs("Lists")[1], "ArrowLeft");
    expect(open("Lists")).toBe(0);
    expect(document.activeElement).toBe(tabs("Lists")[0]);
    expect(id.closest("th")?.getAttribute("aria-sort")).toBe("ascending");
    expect(open("Analyses")).toBe(0);
  });

  test.each([
    ["ArrowLeft", -1],
    ["Home", 0],
    ["End", -1],
    ["ArrowRight", 1],
  ])("%s goes from the first tab to tab %i, which alone can be reached", async (key, to) => {
    shown = await show();
    await press(tabs("Analyses")[0], key);
    const at = (to + tabs("Analyses").length) % tabs("Analyses").length;
    expect(open("Analyses")).toBe(at);
    expect(tabs("Analyses").map((tab) => tab.tabIndex)).toEqual(
      tabs("Analyses").map((_, place) => (place === at ? 0 : -1)),
    );
    const panels = [...shown.el.querySelectorAll<HTMLElement>(".sae-main > [role=tabpanel]")];
    expect(panels.findIndex((panel) => !panel.hidden)).toBe(at);
  });

  test("a tab says that its analysis runs", async () => {
    shown = await show({ _jobs: { dose: job({ state: "running" }) } });
    expect(titles("Analyses")).toContain("Dose-response, running");
  });

  test("a saved copy has tabs only for what it holds", async () => {
    shown = await show({ _saved: true, _steering: steeringPayload() });
    expect(titles("Analyses")).toEqual(["Definition tree", "Steering"]);
    expect(titles("Lists")).toEqual(["Nearest tokens", "Logit lens"]);
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
