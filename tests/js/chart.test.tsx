import { useSignal } from "@preact/signals";
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, describe, expect, test, vi } from "vitest";
import { Chart, type ChartProps, powers, rounded, short } from "../../js/src/ui/chart.tsx";
import { click, press } from "./explorer.tsx";

const X = [-1, 0, 1, 2];
const LINES = [
  { name: "one", values: [1, 2, 3, 4] },
  { name: "gaps", values: [1, null, 3, null] },
];

let host: HTMLElement;
afterEach(() => {
  render(null, host);
  host.remove();
});

function Held(props: Partial<ChartProps>) {
  const at = useSignal<number | null>(props.at ?? null);
  return (
    <Chart
      label="Chart"
      x={X}
      lines={LINES}
      {...props}
      at={at.value}
      onPoint={(index) => {
        at.value = index;
        props.onPoint?.(index);
      }}
    />
  );
}

async function draw(props: Partial<ChartProps> = {}): Promise<HTMLElement> {
  host = document.createElement("div");
  document.body.append(host);
  await act(async () => render(<Held {...props} />, host));
  return host.querySelector("[role=slider]") as HTMLElement;
}

const all = (selector: string) => [...host.querySelectorAll(selector)];
const places = (selector: string, name: string) =>
  all(selector).map((element) => Number(element.getAttribute(name)));

describe("the rule", () => {
  test("goes with the arrow keys from end to end, and its values are read out", async () => {
    const slider = await draw({ at: 0 });
    const read = [slider.getAttribute("aria-valuetext")];
    for (const key of ["ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft"]) {
      await press(slider, key);
      read.push(slider.getAttribute("aria-valuetext"));
    }
    expect(read).toEqual([
      "at −1, one 1, gaps 1",
      "at 0, one 2, gaps none",
      "at 2, one 4, gaps none",
      "at 2, one 4, gaps none",
      "at 1, one 3, gaps 3",
      "at −1, one 1, gaps 1",
      "at −1, one 1, gaps 1",
    ]);
  });

  test("goes to the point nearest to the pointer, once", async () => {
    const onPoint = vi.fn();
    const slider = await draw({ onPoint });
    const move = (clientX: number) =>
      act(async () => {
        slider.dispatchEvent(new PointerEvent("pointermove", { clientX, bubbles: true }));
      });
    await move(0);
    await move(1);
    await move(1000);
    expect(onPoint.mock.calls).toEqual([[0], [3]]);
  });

  test("a point is chosen by click and by Enter", async () => {
    const onChoose = vi.fn();
    const slider = await draw({ onChoose });
    await press(slider, "Enter");
    expect(onChoose).not.toHaveBeenCalled();
    await press(slider, "End");
    await press(slider, "Enter");
    await click(slider);
    expect(onChoose.mock.calls).toEqual([[3], [0]]);
  });

  test("leaves other keys alone", async () => {
    const slider = await draw({ at: 0 });
    const event = new KeyboardEvent("keydown", { key: "Tab", bubbles: true, cancelable: true });
    slider.dispatchEvent(event);
    expect(event.defaultPrevented).toBe(false);
  });
});

describe("the drawing", () => {
  test("larger values stand higher, and what is missing breaks the line", async () => {
    await draw({ at: 0 });
    const [one, gaps] = all(".sae-curve").map((path) => path.getAttribute("d") as string);
    const heights = one
      .split(/[ML]/)
      .slice(2)
      .map((place) => Number(place.split(" ")[1]));
    expect(heights).toEqual([...heights].sort((a, b) => b - a));
    expect(one.match(/M/g)?.length).toBe(1);
    expect(gaps.match(/M/g)?.length).toBe(2);
    expect(all(".sae-point").length).toBe(2);
  });

  test("equal steps of a power are equally wide on an axis of powers", async () => {
    await draw({
      x: [0.1, 1, 10],
      lines: [{ name: "one", values: [1, 100, 10_000] }],
      logX: true,
      logY: true,
    });
    const path = all(".sae-curve")[0].getAttribute("d") as string;
    const [a, b, c] = path
      .split(/[ML]/)
      .slice(2)
      .map((place) => place.split(" ").map(Number));
    for (const axis of [0, 1]) expect(b[axis] - a[axis]).toBeCloseTo(c[axis] - b[axis], 0);
  });

  test("marks stand at their places", async () => {
    await draw({ at: 1, marks: [{ x: 0, label: "unsteered" }] });
    expect(all(".sae-mark")[0].getAttribute("d")).toBe(all(".sae-rule")[0].getAttribute("d"));
    expect(host.textContent).toContain("unsteered");
  });

  test.each([
    ["always the same", { lines: [{ name: "one", values: [2, 2, 2, 2] }] }],
    ["nothing at all", { lines: [{ name: "one", values: [null, null, null, null] }] }],
    ["a single point", { x: [3], lines: [{ name: "one", values: [1] }] }],
    ["zeros on an axis of powers", { lines: [{ name: "one", values: [0, 0, 0, 0] }], logY: true }],
  ])("%s is drawn", async (_, props) => {
    await draw({ at: 0, ...props });
    expect(host.innerHTML).not.toMatch(/NaN|Infinity/);
    expect(places("circle", "cx").every(Number.isFinite)).toBe(true);
  });

  test.each([
    [0.3, ["end", "start"]],
    [1.2, ["middle", "middle"]],
  ])("words of marks do not lie on each other: one at %s", async (x, anchors) => {
    await draw({ marks: [0, x].map((place) => ({ x: place, label: `mark ${place}` })) });
    const words = all(".sae-mark + text");
    expect(words.map((word) => word.getAttribute("text-anchor"))).toEqual(anchors);
  });
});

describe("ticks", () => {
  test.each([
    [0, 1, 4, [0, 0.5, 1]],
    [-0.75, 1.125, 5, [-0.5, 0, 0.5, 1]],
    [3, 17, 4, [5, 10, 15]],
    [1200, 4800, 4, [2000, 3000, 4000]],
  ])("from %d to %d are round, about %i", (low, high, most, expected) => {
    expect(rounded(low, high, most).map((tick) => Number(tick.toPrecision(9)))).toEqual(expected);
  });

  test.each([
    [0, 1, 4, [1, 2, 5, 10]],
    [0, 3, 4, [1, 10, 100, 1000]],
    [0, 9, 4, [1, 1e3, 1e6, 1e9]],
    [-0.7, 0.6, 5, [0.2, 0.5, 1, 2]],
  ])("from 10^%d to 10^%d are of powers of 10, at most %i", (low, high, most, expected) => {
    expect(powers(low, high, most)).toEqual(expected.map((tick) => expect.closeTo(tick, 9)));
  });

  test.each([
    [-0.5, "−0.5"],
    [0.12345, "0.123"],
    [12345, "12300"],
    [0.00015, "1.5e-4"],
    [-123456, "−1.23e5"],
    [0, "0"],
  ])("%d is written %s", (value, text) => {
    expect(short(value)).toBe(text);
  });
});
