import { act } from "preact/test-utils";
import { afterEach, describe, expect, test, vi } from "vitest";
import { rank } from "../../js/src/panels/tokens.tsx";
import { numbers } from "../../js/src/state/columns.ts";
import { visible } from "../../js/src/text.ts";
import {
  click,
  HOSTILE,
  type Shown,
  STATUS,
  show,
  tokensPayload,
  VALUES,
  write,
} from "./explorer.tsx";
import { column, seeded } from "./model.ts";

let shown: Shown | null = null;
afterEach(() => {
  shown?.close();
  shown = null;
  vi.useRealTimers();
});

/** The definition, token by token. */
function naive(cosine: number[], centroid: number[], ids: number[], m: number, limit: number) {
  return cosine
    .map((value, at) => ({
      id: ids[at],
      ratio: (1 - value) ** m / Math.max(1 - centroid[at], 1.1920929e-7),
    }))
    .sort((one, other) => (one.ratio === other.ratio ? one.id - other.id : one.ratio - other.ratio))
    .slice(0, limit)
    .map(({ id }) => id);
}

describe("ranking here", () => {
  test.each([0.1, 0.5, 1, 1.4, 3.3, 5])("at exponent %d is the definition's", (m) => {
    const random = seeded(5);
    const draw = () => Array.from({ length: 3000 }, () => Math.round(random() * 400) / 200 - 1);
    const [cosine, centroid] = [draw(), draw()];
    const ids = cosine.map((_, at) => (at * 7919) % 3000);
    const payload = {
      ...tokensPayload(),
      limit: 500,
      token_id: column("<i4", ids, 1),
      cosine: column("<f8", cosine, 5),
      centroid_cosine: column("<f8", centroid),
    };
    const own = numbers(payload.token_id);
    expect(rank(payload, m).order.map((place) => own[place])).toEqual(
      naive(cosine, centroid, ids, m, 500),
    );
  });
});

const cells = (column: number) =>
  [...(shown as Shown).el.querySelectorAll(".sae-tokens tbody tr")].map(
    (row) => row.children[column].textContent as string,
  );
const header = (text: string) =>
  [...(shown as Shown).el.querySelectorAll<HTMLElement>(".sae-tokens th")].find(
    (th) => th.textContent?.replace(/[▴▾]/, "") === text,
  ) as HTMLElement;

describe("the list", () => {
  test("shows the first of the ranking and how many there were", async () => {
    shown = await show();
    expect(cells(0)).toEqual(Array.from({ length: 30 }, (_, at) => String(at + 1)));
    expect(shown.find(".sae-tokens .sae-foot").textContent).toBe("30 of 8,192 tokens");
    const payload = tokensPayload();
    const { order, ratio } = rank(payload, 1.4);
    expect(cells(2)[0]).toBe(ratio[order[0]].toFixed(4));
  });

  test.each([
    ["#", 0],
    ["ratio", 2],
    ["cos v", 3],
    ["cos μ", 4],
    ["id", 5],
  ])("sorts by %s, both ways", async (title, at) => {
    shown = await show();
    const button = header(title).querySelector("button") as HTMLButtonElement;
    if (title !== "#") await click(button);
    expect(header(title).getAttribute("aria-sort")).toBe("ascending");
    const values = () => cells(at).map((text) => Number(text.replace("−", "-")));
    const rising = values();
    expect(rising).toEqual([...rising].sort((one, other) => one - other));
    await click(button);
    expect(header(title).getAttribute("aria-sort")).toBe("descending");
    const falling = values();
    expect(falling).toEqual([...falling].sort((one, other) => other - one));
    expect(shown.el.querySelectorAll('.sae-tokens th:not([aria-sort="none"])').length).toBe(1);
  });

  test("hostile tokens are text", async () => {
    shown = await show({ _tokens: tokensPayload(4, 4) });
    expect(shown.el.querySelector("img, script")).toBeNull();
    expect(cells(1).sort()).toEqual(
      [...HOSTILE.slice(0, 3).map((text) => visible(text).replaceAll(" ", "␣")), "empty"].sort(),
    );
  });

  test("is filtered in place by what it should hold", async () => {
    shown = await show();
    const field = shown.named("Find in the list");
    await write(field, "WORD3");
    expect(cells(1).length).toBeGreaterThan(0);
    expect(cells(1).every((text) => text.includes("word3"))).toBe(true);
    await write(field, "nowhere");
    expect(shown.find(".sae-tokens").textContent).toContain("No token in the list holds this.");
    await write(field, "nowhere", "Escape");
    expect(cells(0).length).toBe(30);
  });

  test("draws only what is in view of ten thousand rows", async () => {
    shown = await show({ _tokens: tokensPayload(10_000, 10_000) });
    const table = shown.find(".sae-tokens table");
    expect(table.getAttribute("aria-rowcount")).toBe("10001");
    expect(table.querySelectorAll("tbody tr").length).toBeLessThan(100);
    const box = shown.find(".sae-tokens .sae-table");
    await act(async () => {
      box.scrollTop = 24 * 5000;
      box.dispatchEvent(new Event("scroll"));
    });
    expect(cells(0)).toContain("5001");
    expect(cells(0)).not.toContain("1");
  });

  test("copies what is shown, as it is sorted", async () => {
    shown = await show();
    const written = vi.fn(async (_text: string) => {});
    vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText: written } });
    await click(header("id").querySelector("button") as HTMLButtonElement);
    await click(shown.button("Copy"));
    const lines = written.mock.calls[0][0].split("\n").map((line) => line.split("\t"));
    expect(lines[0]).toEqual(["rank", "token", "ratio", "cosine", "centroid_cosine", "token_id"]);
    expect(lines.length).toBe(31);
    expect(lines.every((line) => line.length === 6)).toBe(true);
    expect(lines.slice(1).map((line) => line[5])).toEqual(cells(5));
    vi.unstubAllGlobals();
  });
});

describe("the exponent", () => {
  const slider = () =>
    (shown as Shown).find<HTMLInputElement>("input[type=range][aria-label=Exponent]");

  test("ranks anew at once, and tells the kernel now and then", async () => {
    vi.useFakeTimers();
    shown = await show();
    const before = cells(5);
    for (const position of ["200", "300", "490"]) await write(slider(), position);
    const payload = tokensPayload();
    const ids = numbers(payload.token_id);
    expect(cells(5)).toEqual(rank(payload, 5).order.map((place) => String(ids[place])));
    expect(cells(5)).not.toEqual(before);
    expect(shown.find(".sae-formula msup").textContent).toContain("m=5");
    expect(shown.asked("set").map(({ values }) => values)).toEqual([{ exponent: 2.1 }]);
    await vi.advanceTimersByTimeAsync(200);
    expect(shown.asked("set").at(-1)?.values).toEqual({ exponent: 5 });
  });

  test("works in a saved copy, within what the copy can rank", async () => {
    shown = await show({ _saved: true });
    const before = cells(5);
    await write(slider(), "490");
    expect(cells(5)).not.toEqual(before);
    const field = shown.find<HTMLInputElement>("input[type=text][aria-label=Exponent]");
    await write(field, "12", "Enter");
    expect(field.title).toContain("0.1 to 5");
    expect(shown.model.sent).toEqual([]);
  });

  test("beyond the range sent waits for the kernel", async () => {
    shown = await show();
    const before = cells(5);
    const field = shown.find<HTMLInputElement>("input[type=text][aria-label=Exponent]");
    await write(field, "12", "Enter");
    expect(shown.asked("set").at(-1)?.values).toEqual({ exponent: 12 });
    expect(cells(5)).toEqual(before);
  });
});

test("filters say which of them are active", async () => {
  shown = await show({ _values: { ...VALUES, script: "Latin", min_length: 3 } });
  expect(shown.find(".sae-tokens .sae-active").textContent).toBe("Script, Least length");
});

test("before the first ranking there is a place for it", async () => {
  shown = await show({ _tokens: null, _status: { ...STATUS, state: "loading" } });
  expect(shown.find(".sae-side [role=tabpanel]").textContent).toBe(
    "The nearest tokens appear here.",
  );
});
