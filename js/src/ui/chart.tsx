// A line chart in SVG, read with the pointer and the keyboard alike: a rule stands at one of its
// points, and whoever draws the chart says what is to be read there.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useUnique } from "./controls.tsx";
import { plain } from "./format.ts";

export interface ChartProps {
  /** What is drawn, and for whom does not see it the name of the slider. */
  label: string;
  /** What it measures, in a sentence. */
  help?: string;
  /** Values of the axis that charts share; they rise. */
  x: number[];
  /** One value for each place of x, null where there is none. */
  lines: { name: string; values: (number | null)[] }[];
  /** Axes in powers of 10; values must be above 0. */
  logX?: boolean;
  logY?: boolean;
  /** Places of the x axis that are marked. */
  marks?: { x: number; label: string }[];
  /** Index of the point that the rule stands at. */
  at: number | null;
  /** The pointer or an arrow key went to a point. */
  onPoint(index: number): void;
  /** A point was clicked, or Enter pressed at it. */
  onChoose?(index: number): void;
  /** What is said of a point; the values of all lines if not given. */
  text?(index: number): string;
}

const HEIGHT = 110;
const LEFT = 46;
const RIGHT = 10;
const TOP = 16;
const BOTTOM = 20;
/** Width before the real one is known, and where a host draws us unseen. */
const UNKNOWN = 320;
/** Width that the word of a mark needs. */
const WORD = 60;
/** Width that a label of an axis needs. */
const LABEL = 56;

export function Chart(props: ChartProps) {
  const { label, x, lines, marks = [], at, onPoint, onChoose } = props;
  const box = useRef<HTMLDivElement>(null);
  const wide = useSignal(UNKNOWN);
  useEffect(() => {
    const element = box.current as HTMLDivElement;
    const watch = new ResizeObserver(() => {
      // A chart that is hidden keeps the width that it had.
      wide.value = element.clientWidth || wide.peek();
    });
    watch.observe(element);
    return () => watch.disconnect();
  }, [wide]);

  const help = useUnique();
  const width = wide.value;
  const across = axis(x, props.logX ?? false, [LEFT, width - RIGHT], (width - LEFT) / LABEL);
  const values = lines.flatMap((line) => line.values.filter((value) => value !== null));
  const up = axis(values, props.logY ?? false, [HEIGHT - BOTTOM, TOP], 4, true);
  const text = props.text ?? ((index: number) => pointInWords(props, index));
  const last = x.length - 1;

  /** Index of the point nearest to the pointer. */
  function nearest(event: MouseEvent): number {
    const from = (box.current as HTMLDivElement).getBoundingClientRect().left;
    const away = x.map((value) => Math.abs(across.place(value) - (event.clientX - from)));
    return away.indexOf(Math.min(...away));
  }

  function press(event: KeyboardEvent) {
    const now = at ?? 0;
    const next = {
      ArrowRight: Math.min(now + 1, last),
      ArrowUp: Math.min(now + 1, last),
      ArrowLeft: Math.max(now - 1, 0),
      ArrowDown: Math.max(now - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (next !== undefined) onPoint(next);
    else if (onChoose && at !== null && (event.key === "Enter" || event.key === " ")) onChoose(at);
    else return;
    event.preventDefault();
  }

  if (!x.length) return null;
  return (
    <>
      <div
        class="sae-chart"
        ref={box}
        role="slider"
        tabIndex={0}
        aria-label={label}
        aria-describedby={help}
        aria-valuemin={0}
        aria-valuemax={last}
        aria-valuenow={at ?? 0}
        aria-valuetext={at === null ? undefined : text(at)}
        data-chosen={onChoose ? true : undefined}
        onKeyDown={press}
        onPointerMove={(event) => {
          const index = nearest(event);
          if (index !== at) onPoint(index);
        }}
        onClick={(event) => {
          const index = nearest(event);
          onPoint(index);
          onChoose?.(index);
        }}
      >
        <svg width={width} height={HEIGHT} aria-hidden="true">
          {up.ticks.map((tick) => (
            <g key={tick}>
              <path class="sae-grid" d={`M${LEFT} ${up.place(tick)}H${width - RIGHT}`} />
              <text class="sae-tick" x={LEFT - 6} y={up.place(tick)} dy="0.35em" text-anchor="end">
                {short(tick)}
              </text>
            </g>
          ))}
          {across.ticks.map((tick) => (
            <text
              key={tick}
              class="sae-tick"
              x={across.place(tick)}
              y={HEIGHT - 5}
              text-anchor="middle"
            >
              {short(tick)}
            </text>
          ))}
          {marks.map(({ x: place, label: word }) => {
            const left = across.place(place);
            return (
              <g key={word}>
                <path class="sae-mark" d={`M${left} ${TOP - 4}V${HEIGHT - BOTTOM}`} />
                <text class="sae-tick" x={left} y={TOP - 6} text-anchor={anchor(left)}>
                  {word}
                </text>
              </g>
            );
          })}
          {lines.map((line, order) => (
            <path key={line.name} class="sae-curve" data-order={order % 4} d={curve(line.values)} />
          ))}
          {at !== null && x[at] !== undefined && (
            <>
              <path class="sae-rule" d={`M${across.place(x[at])} ${TOP - 4}V${HEIGHT - BOTTOM}`} />
              {lines.map(({ name, values: own }, order) =>
                own[at] === null || own[at] === undefined ? null : (
                  <circle
                    key={name}
                    class="sae-point"
                    data-order={order % 4}
                    cx={across.place(x[at])}
                    cy={up.place(own[at])}
                    r="3.5"
                  />
                ),
              )}
            </>
          )}
        </svg>
      </div>
      <p class="sae-help" id={help}>
        {props.help}
      </p>
    </>
  );

  /** How the word of a mark stands to it: away from the edges, and from the word of another. */
  function anchor(left: number): "start" | "middle" | "end" {
    if (left > width - WORD) return "end";
    if (left < LEFT + WORD / 4) return "start";
    const away = marks.map((mark) => across.place(mark.x) - left);
    if (away.some((distance) => distance > 0 && distance < WORD)) return "end";
    const follows = away.some((distance) => distance < 0 && distance > -WORD);
    return follows || left < LEFT + WORD / 2 ? "start" : "middle";
  }

  /** A line through what there is; it breaks where there is nothing. */
  function curve(own: (number | null)[]): string {
    return own
      .map((value, index) => {
        if (value === null || x[index] === undefined) return "";
        const before = index > 0 ? own[index - 1] : null;
        const place = `${across.place(x[index]).toFixed(1)} ${up.place(value).toFixed(1)}`;
        // A point between gaps is a line to itself, which a round end makes visible.
        return before === null ? `M${place}L${place}` : `L${place}`;
      })
      .join("");
  }
}

/** The name of each line beside how it is drawn, and its value at the rule. */
export function Legend({ lines, at }: Pick<ChartProps, "lines" | "at">) {
  return (
    <span class="sae-legend">
      {lines.map(({ name, values }, order) => {
        return (
          <span key={name}>
            <svg width="18" height="8" aria-hidden="true">
              <path class="sae-curve" data-order={order % 4} d="M1 4H17" />
            </svg>
            <bdi>{name}</bdi>
            <b>{figure(at === null ? null : values[at])}</b>
          </span>
        );
      })}
    </span>
  );
}

/** All that charts of the same x show, as a table; the row of the rule is marked. */
export function Values(props: {
  label: string;
  /** What x is. */
  first: string;
  x: number[];
  columns: { name: string; help?: string; values: (number | null)[] }[];
  at: number;
}) {
  const { label, first, x, columns, at } = props;
  return (
    <details class="sae-filters">
      <summary>All values</summary>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard */}
      <section class="sae-values" tabIndex={0} aria-label={`All values, ${label}`}>
        <table aria-label={label}>
          <thead>
            <tr>
              <th scope="col" data-numeric>
                {first}
              </th>
              {columns.map(({ name, help }) => (
                <th key={name} scope="col" data-numeric title={help}>
                  <bdi>{name}</bdi>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {x.map((value, index) => (
              <tr key={value} data-current={index === at || undefined}>
                <th scope="row" data-numeric>
                  {short(value)}
                </th>
                {columns.map(({ name, values }) => (
                  <td key={name} data-numeric>
                    {figure(values[index])}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </details>
  );
}

/** A number of a chart, where there is one. */
export function figure(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : short(value);
}

interface Axis {
  /** Where a value stands, in pixels. */
  place(value: number): number;
  ticks: number[];
}

/** An axis over values; a `loose` one ends at round numbers. */
function axis(
  values: number[],
  log: boolean,
  [from, to]: [number, number],
  most: number,
  loose = false,
): Axis {
  const turn = log ? (value: number) => Math.log10(Math.max(value, Number.MIN_VALUE)) : Number;
  let low = turn(Math.min(...values));
  let high = turn(Math.max(...values));
  if (!(high > low)) {
    // Nothing, or always the same: it stands in the middle.
    const middle = Number.isFinite(low) ? low : 0;
    low = middle - 0.5;
    high = middle + 0.5;
  }
  const ticks = log ? powers(low, high, most) : rounded(low, high, most);
  if (loose && !log && ticks.length > 1) {
    const step = ticks[1] - ticks[0];
    if (ticks[0] > low) ticks.unshift(ticks[0] - step);
    if ((ticks.at(-1) as number) < high) ticks.push((ticks.at(-1) as number) + step);
    low = ticks[0];
    high = ticks.at(-1) as number;
  }
  return {
    place: (value) => from + ((turn(value) - low) / (high - low)) * (to - from),
    // Free of what adding up tenths leaves behind.
    ticks: ticks.map((tick) => Number(tick.toPrecision(12))),
  };
}

/** At most about so many multiples of 1, 2 or 5 times a power of 10. */
export function rounded(low: number, high: number, most: number): number[] {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((times) => times * power >= rough * 0.999) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, place) => (first + place) * step);
}

/** Ticks of an axis whose ends are given as powers of 10: 1, 2 and 5 times where there is room. */
export function powers(low: number, high: number, most: number): number[] {
  for (const times of [[1, 2, 5], [1, 3], [1]]) {
    const found: number[] = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const one of times) found.push(one * 10 ** power);
    }
    const within = found.filter(
      (tick) => Math.log10(tick) >= low - 1e-9 && Math.log10(tick) <= high + 1e-9,
    );
    if (within.length <= most || times.length === 1) {
      const every = Math.ceil(within.length / most);
      return within.filter((_, place) => place % every === 0);
    }
  }
  return [];
}

/** A number that an axis has room for: three digits and a true minus. */
export function short(value: number): string {
  const rounded = Number(value.toPrecision(3));
  const size = Math.abs(rounded);
  const long = size !== 0 && (size < 1e-3 || size >= 1e5);
  return (long ? rounded.toExponential().replace("e+", "e") : plain(rounded)).replace(/^-/, "−");
}

function pointInWords({ x, lines }: ChartProps, index: number): string {
  const read = lines.map(({ name, values }) => {
    const value = values[index];
    return `${name} ${value === null || value === undefined ? "none" : short(value)}`;
  });
  return [`at ${short(x[index])}`, ...read].join(", ");
}
