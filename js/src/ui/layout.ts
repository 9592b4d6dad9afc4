// Where the nodes of a diagram stand: from left to right, one column for each depth.
import type { Shown } from "../state/tree.ts";

/** Distance of two leaves. */
export const ROW = 20;
/** Size of the labels' letters. */
export const LETTERS = 12;
/** The longest label, as wide as it may be. */
const WIDEST = 190;
/** Room for a fork between two columns. */
const FORK = 46;
/** What a fork needs at the least. */
const NARROWEST = 20;
/** Row B9's widths reach 33; as wide as this, lines stay within their row. */
const THICKEST = 0.8 * ROW;

/** By index in `shown.rows`, in a drawing whose root's column begins at 0. */
export interface Layout {
  shown: Shown;
  /** Left end of the label. */
  x: Float64Array;
  /** Width of the label. */
  width: Float32Array;
  y: Float64Array;
  /** Width of the line from the parent. */
  line: Float32Array;
  /** Extents of the branch: its first and its last leaf, and how far to the right it goes. */
  top: Float64Array;
  bottom: Float64Array;
  right: Float64Array;
  /** Share of its own width to which the drawing can be pushed together before labels meet. */
  tightest: number;
}

/** Place what is in sight; `measure` tells the width of a row's label. */
export function layoutOf(shown: Shown, measure: (row: number) => number): Layout {
  const { tree, rows, place, extent } = shown;
  const { parent, depth, cumulative } = tree;
  const count = rows.length;
  const width = new Float32Array(count);
  const columns: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const row = rows[index];
    width[index] = Math.min(measure(row), WIDEST);
    columns[depth[row]] = Math.max(columns[depth[row]] ?? 0, width[index]);
  }
  const longest = Math.max(...columns);
  const tightest = (longest + NARROWEST) / (longest + FORK);
  const begins: number[] = [0];
  for (const [column, widest] of columns.entries()) begins.push(begins[column] + widest + FORK);

  const x = new Float64Array(count);
  const y = new Float64Array(count);
  const line = new Float32Array(count);
  const top = new Float64Array(count);
  const bottom = new Float64Array(count);
  const right = new Float64Array(count);
  // Over the whole tree, so that a line keeps its width when something is folded.
  const least = Math.log(cumulative[tree.count - 1]);
  let leaf = 0;
  for (let index = 0; index < count; index += 1) {
    const row = rows[index];
    x[index] = begins[depth[row]];
    right[index] = x[index] + width[index];
    // Row B9, scaled down.
    const share = least < 0 ? 1 - Math.log(cumulative[row]) / least : 1;
    line[index] = ((1 + 32 * share ** 2.5) * THICKEST) / 33;
    if (extent[row] === 1) {
      y[index] = top[index] = bottom[index] = leaf * ROW;
      leaf += 1;
    } else {
      top[index] = Number.NaN;
    }
  }
  // From the last to the first, children are done before their parents, the last child first.
  const first = new Int32Array(count);
  const last = new Int32Array(count);
  for (let index = count - 1; index >= 0; index -= 1) {
    if (Number.isNaN(top[index])) {
      y[index] = (y[first[index]] + y[last[index]]) / 2;
      top[index] = top[first[index]];
      bottom[index] = bottom[last[index]];
    }
    if (index === 0) break;
    const above = place[parent[rows[index]]];
    first[above] = index;
    if (!last[above]) last[above] = index;
    right[above] = Math.max(right[above], right[index]);
  }
  return { shown, x, width, y, line, top, bottom, right, tightest };
}

/** Index of the node whose label is at a point, or -1; labels are drawn `stretch` times as wide. */
export function nodeAt(layout: Layout, px: number, py: number, stretch = 1) {
  const { shown, x, width, y, top, bottom, right } = layout;
  const { rows, extent } = shown;
  for (let index = 0; index < rows.length; ) {
    const beyond = py < top[index] - ROW / 2 || py > bottom[index] + ROW / 2;
    if (beyond || px < x[index] - 4 || px > right[index] + FORK) {
      index += extent[rows[index]];
    } else if (px <= x[index] + width[index] * stretch + 6 && Math.abs(py - y[index]) <= ROW / 2) {
      return index;
    } else {
      index += 1;
    }
  }
  return -1;
}
