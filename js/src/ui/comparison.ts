// Two trees in one, read node by node: what is in which, and how the probability changed.
import { numbers } from "../state/columns.ts";
import type { Column, DifferencePayload, TreePayload } from "../state/protocol.ts";
import { TreeData } from "../state/tree.ts";
import { visible } from "../text.ts";
import { percent } from "./format.ts";
import { type Reading, shareOf } from "./reading.ts";

/** What became of a node from the first tree, A, to the second, B. */
export const FATES = ["gains", "loses", "only in A", "only in B", "alike"] as const;
export type Fate = (typeof FATES)[number];

/** A shape for each, so that colour says nothing alone. */
export const SIGNS: Record<Fate, string> = {
  gains: "▲",
  loses: "▼",
  "only in A": "◁",
  "only in B": "▷",
  alike: "=",
};

/** Probabilities that differ by less than this share are alike. */
const ALIKE = 0.05;
/** The factor that has the full colour. */
const FULL = 10;

/** One of the two trees. */
interface Side {
  letter: "A" | "B";
  /** P by row; -1 where the node is not in this tree. */
  own: ArrayLike<number>;
  /** P also where the node is not in this tree, as far as it is known; else 0. */
  known: ArrayLike<number>;
}

export interface Comparison {
  tree: TreeData;
  fates: Fate[];
  counts: Record<Fate, number>;
  sides: [Side, Side];
}

export function compared(payload: DifferencePayload): Comparison {
  const tree = TreeData.from(payload as TreePayload);
  const one = sideOf("A", payload.one, payload.exact_one);
  const two = sideOf("B", payload.two, payload.exact_two);
  const counts = Object.fromEntries(FATES.map((fate) => [fate, 0])) as Record<Fate, number>;
  const fates = Array.from(one.own, (P, row) => fateOf(P, two.own[row]));
  // The root is in both, and no finding.
  for (const fate of fates.slice(1)) counts[fate] += 1;
  return { tree, fates, counts, sides: [one, two] };
}

function sideOf(letter: "A" | "B", column: Column, scored: Column | undefined): Side {
  const own = numbers(column);
  const exact = scored && numbers(scored);
  const known = Float64Array.from(own, (P, row) => (P >= 0 ? P : exact?.[row] || 0));
  return { letter, own, known };
}

function fateOf(one: number, two: number): Fate {
  if (two < 0) return "only in A";
  if (one < 0) return "only in B";
  if (Math.abs(two - one) <= ALIKE * Math.max(one, two)) return "alike";
  return two > one ? "gains" : "loses";
}

/** How a comparison is read: all of it, or only what became of some. */
export function readingOfTwo(
  comparison: Comparison,
  names: [string, string],
  chosen: ReadonlySet<Fate>,
  byChange: boolean,
): Reading {
  const { tree, fates, sides } = comparison;
  const [one, two] = sides.map(({ known }) => known);
  const columns = sides.map(({ letter, own, known }, which) => ({
    name: letter,
    help: `Probability of the whole path in ${letter}: ${visible(names[which])}. In brackets: too improbable to be in that tree, or not among its first tokens. The bar is logarithmic.`,
    width: "clamp(62px, 17cqi, 112px)",
    text: (row: number) =>
      own[row] >= 0 ? percent(own[row]) : known[row] ? `(${percent(known[row])})` : "–",
    bar: (row: number) => (own[row] >= 0 ? shareOf(own[row], tree.cutoff) : 0),
  }));
  return {
    figures: [
      ...columns,
      {
        name: "change",
        help: "What became of the node from A to B, and how many times as probable it is",
        width: "72px",
        text: (row) => (row ? changeOf(fates[row], one[row], two[row]) : ""),
      },
    ],
    // One of a node's two probabilities is more than 0, and a logarithm of nothing is cut.
    tone: (row) =>
      row && fates[row] !== "alike"
        ? Math.max(-1, Math.min(1, Math.log(two[row] / one[row]) / Math.log(FULL)))
        : 0,
    strongest: FULL,
    order: byChange ? Float64Array.from(one, (P, row) => Math.abs(two[row] - P)) : null,
    keep: chosen.size ? (row) => chosen.has(fates[row]) : null,
  };
}

function changeOf(fate: Fate, one: number, two: number): string {
  const sign = SIGNS[fate];
  if (fate === "alike") return sign;
  if (fate.startsWith("only")) return `${sign} only ${fate.at(-1)}`;
  const factor = Number((two > one ? two / one : one / two).toPrecision(2));
  return `${sign} ${two > one ? "×" : "÷"}${factor < 1e4 ? factor : factor.toExponential(0).replace("e+", "e")}`;
}
