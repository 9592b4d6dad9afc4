// What is read off the nodes of a tree: figures, colours, order.
import { numbers } from "../state/columns.ts";
import type { Explorer } from "../state/context.ts";
import type { Colour } from "../state/local.ts";
import type { LoopPayload } from "../state/protocol.ts";
import type { Choice, TreeData } from "../state/tree.ts";
import { decimals, exactPercent, percent } from "./format.ts";

/** One figure of each node: a column of the outline, a line of its card. */
export interface Figure {
  name: string;
  /** Its heading, and what is said of it, where the name alone says too little. */
  title?: string;
  help: string;
  /** Width of its column. */
  width: string;
  text(row: number): string;
  /** The same where there is room, if it says more. */
  exact?(row: number): string;
  /** Length of a bar before it, 0 to 1. */
  bar?(row: number): number;
}

export interface Reading extends Required<Pick<Choice, "order" | "keep">> {
  figures: Figure[];
  /** Colour of a node: 0 is none, up to 1 for more, down to -1 for less. */
  tone(row: number): number;
  /** What the strongest tone stands for; null where nothing is coloured. */
  strongest: number | null;
}

/** What a tree can be coloured by, besides the bars and lines of its probabilities. */
export interface Measures {
  lift: Float32Array | null;
  /** Activation of the explored feature at each node's text, NaN where it was not run. */
  activation: ArrayLike<number> | null;
}

export function measuresOf(tree: TreeData, { synced }: Explorer): Measures {
  return { lift: tree.lift, activation: activationOf(tree, synced) };
}

/** The closed loop's activations, where they are those of this very tree. */
function activationOf(tree: TreeData, synced: Explorer["synced"]): ArrayLike<number> | null {
  const loop = synced.result<LoopPayload>("loop").value;
  if (!loop || synced.isOld("loop")) return null;
  if (synced.status.value.state === "growing") return null;
  const nodes = numbers(loop.nodes);
  return nodes.length === tree.count ? nodes : null;
}

/** Lift that has the full colour: some fifty times as probable. More is as surprising. */
const FULL = 4;

/** How many rows, from the first, tell how large the measures of a tree are. */
const SEEN = 200;

/** The colour that is chosen, where there is what it shows. */
export function colourOf(chosen: Colour, measures: Measures): Colour {
  return chosen !== "probability" && measures[chosen] ? chosen : "probability";
}

/** How the reader has chosen to read the definition tree. */
export function readingOf(tree: TreeData, explorer: Explorer): Reading {
  const look = explorer.local;
  const measures = measuresOf(tree, explorer);
  const { lift, activation } = measures;
  const figures = [...probabilities(tree)];
  if (lift) {
    figures.push({
      name: "lift",
      help: "Natural logarithm of how many times more probable the path is than with random directions: +2.3 is 10 times, −2.3 a tenth",
      width: "56px",
      text: (row) => (row ? signed(lift[row], 2) : ""),
    });
  }
  if (activation) {
    figures.push({
      name: "act.",
      help: "Activation of the feature when the model reads the definition so far (closed loop); – where that was not run",
      width: "52px",
      text: (row) => (row && activation[row] >= 0 ? decimals(activation[row], 2) : "–"),
    });
  }
  const colour = colourOf(look.colour.value, measures);
  const shown = colour === "probability" ? null : measures[colour];
  const strongest = shown && Math.min(largest(shown), colour === "lift" ? FULL : Infinity);
  const least = look.leastLift.value;
  return {
    figures,
    // What was not measured has no colour.
    tone: (row) =>
      shown && strongest && row ? Math.max(-1, Math.min(1, shown[row] / strongest)) || 0 : 0,
    strongest,
    order: look.byLift.value ? lift : null,
    keep: lift && least !== null ? (row) => lift[row] >= least : null,
  };
}

/**
 * The largest size among the most probable nodes, of which most are seen; at least 1, or noise would
 * have colours. Larger ones far below have the full colour too.
 */
function largest(values: ArrayLike<number>): number {
  let most = 1;
  for (let row = 1; row < Math.min(values.length, SEEN); row += 1) {
    const size = Math.abs(values[row]);
    if (size > most && size < Number.POSITIVE_INFINITY) most = size;
  }
  return most;
}

function probabilities(tree: TreeData): Figure[] {
  return [
    {
      name: "P",
      title: "P of path",
      help: "Probability of the whole path. The bar is logarithmic, from the cutoff to 100 %.",
      width: "clamp(62px, 100cqi - 410px, 128px)",
      text: (row) => percent(tree.cumulative[row]),
      exact: (row) => exactPercent(tree.cumulative[row]),
      bar: (row) => shareOf(tree.cumulative[row], tree.cutoff),
    },
    {
      name: "p",
      title: "p of token",
      help: "Probability of the token after its parent",
      width: "64px",
      text: (row) => (row > 0 ? percent(tree.probability[row]) : ""),
      exact: (row) => (row > 0 ? exactPercent(tree.probability[row]) : ""),
    },
  ];
}

/** How long a bar is: the logarithm, for most of a tree is less probable than 1 %. */
export function shareOf(P: number, cutoff: number): number {
  return cutoff < 1 ? Math.max(0, 1 - Math.log(P) / Math.log(cutoff)) : 1;
}

/** A number with its sign, also where it is more than nothing. */
export function signed(value: number, places: number): string {
  if (Number.isNaN(value)) return "–";
  if (Math.abs(value) === Number.POSITIVE_INFINITY) return value > 0 ? "+∞" : "−∞";
  return `${value > 0 ? "+" : ""}${decimals(value, places)}`;
}
