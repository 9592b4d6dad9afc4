// The diagram's one drawing, made with whatever has the few methods of a canvas that it needs.
import type { Shown, TreeData } from "../state/tree.ts";
import { visible, visibleToken } from "../text.ts";
import { count } from "./format.ts";
import { type Layout, LETTERS, ROW } from "./layout.ts";

export type Pen = Pick<
  CanvasRenderingContext2D,
  | "beginPath"
  | "moveTo"
  | "lineTo"
  | "bezierCurveTo"
  | "stroke"
  | "fillRect"
  | "strokeRect"
  | "strokeText"
  | "fillText"
  | "strokeStyle"
  | "fillStyle"
  | "globalAlpha"
  | "lineWidth"
  | "font"
>;

export interface Colours {
  ground: string;
  text: string;
  muted: string;
  line: string;
  accent: string;
  second: string;
  match: string;
}

/** What part of the drawing is seen, and how large. */
export interface Sight {
  /** The drawing's point at the left upper corner. */
  x: number;
  y: number;
  /** Pixels for a unit of the drawing, downwards and of letters, … */
  zoom: number;
  /** … and from left to right: a tree of thousands is all height, and would be a thread. */
  across: number;
  width: number;
  height: number;
}

export interface Marks {
  selected: number;
  found: ReadonlySet<number>;
  /** Colour of a row, from -1 to 1; 0 is none. */
  tone(row: number): number;
}

/** Letters smaller than this cannot be read. */
const LEGIBLE = 6.5;
/** Branches lower than this many pixels are drawn as one stroke. */
const SMALLEST = 0.5;
/** Lines get no thinner than at this zoom, or all were alike where the whole of a tree is in view. */
const THINNEST = 0.3;
/** Lines are drawn together by width, in steps. */
const WIDTHS = 24;
/** How much of a colour is behind the letters of a node that has it in full. */
const TINT = 0.45;
/** Longer labels are cut, so that one does not take a whole column. */
const LONGEST = 28;

/** Letters that are written from right to left. */
const FROM_THE_RIGHT =
  /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** What a node says of itself: its token, or what the tree is of, and how many nodes it hides. */
export function labelOf(shown: Shown, row: number): string {
  const hidden = hiddenBelow(shown, row);
  return hidden ? `${nameOf(shown.tree, row)} ▸${count(hidden)}` : nameOf(shown.tree, row);
}

function nameOf(tree: TreeData, row: number): string {
  if (row === 0) return cut(visible(tree.label));
  if (tree.endsText(row)) return "∎ end";
  const text = tree.tokenText(row);
  // The space before a word says nothing here, but a token of spaces alone must be seen.
  const token = cut(visible(text).trim() || visibleToken(text) || "(empty)");
  return `${isolated(token)}${tree.isEnd(row) ? " ∎" : tree.isOpenTip(row) ? " …" : ""}`;
}

/** Text that does not turn round what stands after it, as a drawing has no other way to say. */
function isolated(text: string): string {
  return FROM_THE_RIGHT.test(text) ? `\u2068${text}\u2069` : text;
}

function cut(text: string): string {
  const letters = [...text];
  return letters.length > LONGEST ? `${letters.slice(0, LONGEST - 1).join("")}…` : text;
}

/** How many nodes a folded one hides. */
export function hiddenBelow({ size, open, extent }: Shown, row: number): number {
  return open[row] ? 0 : size[row] - extent[row];
}

/** What measures texts, each once. */
export function meter(fontFamily: string): (text: string) => number {
  const context = document.createElement("canvas").getContext("2d");
  const known = new Map<string, number>();
  if (context) context.font = `${LETTERS}px ${fontFamily}`;
  return (text) => {
    let width = known.get(text);
    if (width === undefined) {
      width = context ? context.measureText(text).width : 0.6 * LETTERS * text.length;
      known.set(text, width);
    }
    return width;
  };
}

/** What tells the widths of a tree's labels: most depend on the token alone. */
export function measure(shown: Shown, widthOf: (text: string) => number): (row: number) => number {
  const { tree } = shown;
  const byToken = new Float32Array(tree.distinct);
  return (row) => {
    if (row === 0 || hiddenBelow(shown, row) || tree.isOpenTip(row)) {
      return widthOf(labelOf(shown, row));
    }
    const token = tree.token[row];
    if (!byToken[token]) byToken[token] = widthOf(labelOf(shown, row));
    return byToken[token];
  };
}

/** Draw what is in sight. */
export function paint(
  pen: Pen,
  layout: Layout,
  sight: Sight,
  marks: Marks,
  colours: Colours,
  fontFamily: string,
): void {
  const { shown, x, y, width, line, top, bottom, right } = layout;
  const { rows, place, extent, tree } = shown;
  const { zoom, across } = sight;
  const letters = LETTERS * zoom;
  const legible = letters >= LEGIBLE;
  const atX = (value: number) => (value - sight.x) * across;
  const atY = (value: number) => (value - sight.y) * zoom;
  const farX = sight.x + sight.width / across;
  const farY = sight.y + sight.height / zoom;

  const edges: number[][] = Array.from({ length: WIDTHS }, () => []);
  const strokes: number[] = [];
  const labels: number[] = [];
  for (let index = 0; index < rows.length; ) {
    const row = rows[index];
    const above = index ? place[tree.parent[row]] : 0;
    const far = right[index] < sight.x || x[above] > farX;
    const high = Math.min(top[index], y[above]) - ROW;
    const low = Math.max(bottom[index], y[above]) + ROW;
    if (far || low < sight.y || high > farY) {
      index += extent[row];
      continue;
    }
    if (index) edges[Math.round((line[index] / ROW) * (WIDTHS - 1))].push(index);
    const beyond = bottom[index] + ROW < sight.y || top[index] - ROW > farY || x[index] > farX;
    if (beyond) {
      index += extent[row];
    } else if (extent[row] > 1 && (bottom[index] - top[index] + ROW) * zoom < SMALLEST) {
      strokes.push(index);
      index += extent[row];
    } else {
      labels.push(index);
      index += 1;
    }
  }

  pen.strokeStyle = colours.line;
  for (const [step, group] of edges.entries()) {
    if (!group.length) continue;
    pen.lineWidth = Math.max(0.6, ((step || 0.5) * ROW * Math.max(zoom, THINNEST)) / (WIDTHS - 1));
    pen.beginPath();
    for (const index of group) {
      const above = place[tree.parent[rows[index]]];
      // Where no labels are drawn, lines go on through their places.
      const from = atX(x[above]) + (legible ? (width[above] + 4) * zoom : 0);
      const bend = x[above] + width[above] + 4;
      const to = x[index] - 4;
      const middle = (bend + to) / 2;
      pen.moveTo(from, atY(y[above]));
      pen.lineTo(atX(bend), atY(y[above]));
      pen.bezierCurveTo(
        atX(middle),
        atY(y[above]),
        atX(middle),
        atY(y[index]),
        atX(to),
        atY(y[index]),
      );
      if (!legible) pen.lineTo(atX(x[index] + width[index]), atY(y[index]));
    }
    pen.stroke();
  }
  if (strokes.length) {
    pen.lineWidth = 0.6;
    pen.beginPath();
    for (const index of strokes) {
      pen.moveTo(atX(x[index]), atY(y[index]));
      pen.lineTo(atX(right[index]), atY(y[index]));
    }
    pen.stroke();
  }

  const box = (index: number, outer: number): [number, number, number, number] => [
    atX(x[index]) - outer,
    atY(y[index]) - (ROW * 0.45 * zoom + outer / 2),
    width[index] * zoom + 2 * outer,
    ROW * 0.9 * zoom + outer,
  ];
  for (const index of labels) {
    const tone = marks.tone(rows[index]);
    if (!tone) continue;
    // Ground first, so that a line that passes behind does not change the colour.
    pen.fillStyle = colours.ground;
    pen.fillRect(...box(index, 2));
    pen.globalAlpha = TINT * Math.abs(tone);
    pen.fillStyle = tone > 0 ? colours.accent : colours.second;
    pen.fillRect(...box(index, 2));
    pen.globalAlpha = 1;
    // A rule below what is less, since not everybody tells the colours apart.
    if (tone < 0) pen.fillRect(atX(x[index]), atY(y[index] + ROW * 0.38), width[index] * zoom, 1);
  }
  for (const index of labels) {
    if (!marks.found.has(rows[index])) continue;
    pen.fillStyle = colours.match;
    pen.fillRect(...box(index, 2));
    // Underlined as well, since not everybody sees the colour.
    pen.fillStyle = colours.text;
    pen.fillRect(atX(x[index]), atY(y[index] + ROW * 0.38), width[index] * zoom, 1.5);
  }
  if (legible) {
    pen.font = `${letters}px ${fontFamily}`;
    // A halo keeps letters apart from lines that pass behind them.
    pen.strokeStyle = colours.ground;
    pen.lineWidth = 3 * zoom;
    for (const index of labels) {
      const row = rows[index];
      const label = labelOf(shown, row);
      const room = width[index] * zoom;
      const [left, base] = [atX(x[index]), atY(y[index]) + 0.34 * letters];
      if (!marks.found.has(row) && !marks.tone(row)) pen.strokeText(label, left, base, room);
      pen.fillStyle = marks.tone(row)
        ? colours.text
        : hiddenBelow(shown, row)
          ? colours.accent
          : tree.isEnd(row)
            ? colours.muted
            : colours.text;
      pen.fillText(label, left, base, room);
    }
  }
  const index = marks.selected >= 0 ? (place[marks.selected] ?? -1) : -1;
  if (index >= 0) {
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 2;
    pen.strokeRect(...box(index, 4));
  }
}
