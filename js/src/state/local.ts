// LOCAL to one view: what this reader looks at. Nothing of it is sent to the kernel.
import { type Signal, signal } from "@preact/signals";

/** What the colours of nodes can say. */
export const COLOURS = ["probability", "lift", "activation"] as const;
export type Colour = (typeof COLOURS)[number];

export interface Local {
  /** Which panel is in sight in the middle, and which at the side, by name. */
  panel: Record<"main" | "side", Signal<string>>;
  /** Which drawing of the tree is shown. */
  drawing: Signal<"outline" | "diagram">;
  /** Row of the tree that is selected; -1: none. Rows keep their numbers while a tree grows. */
  selected: Signal<number>;
  /** Row that something outside the drawings wants to be shown and selected; -1: none. */
  sought: Signal<number>;
  /** Nodes at least this probable (P) are open; null chooses so that a screen is filled. */
  openAbove: Signal<number | null>;
  /** Nodes opened (true) or folded (false) by hand, by row. */
  toggled: Signal<ReadonlyMap<number, boolean>>;
  /** Nodes less probable (P) than this are hidden. */
  trim: Signal<number>;
  /** Hide tokens that are empty or bare closing quotes. */
  quiet: Signal<boolean>;
  /** What is searched for in the tree. */
  query: Signal<string>;
  /** What the colours of nodes say, where the tree has it. */
  colour: Signal<Colour>;
  /** Siblings in the order of lift instead of probability. */
  byLift: Signal<boolean>;
  /** Hide nodes of less lift, unless something below them has more; null: hide none. */
  leastLift: Signal<number | null>;
}

export function local(): Local {
  return {
    panel: { main: signal("tree"), side: signal("tokens") },
    drawing: signal<"outline" | "diagram">("outline"),
    selected: signal(-1),
    sought: signal(-1),
    openAbove: signal<number | null>(null),
    toggled: signal<ReadonlyMap<number, boolean>>(new Map()),
    trim: signal(0),
    quiet: signal(false),
    query: signal(""),
    colour: signal<Colour>("probability"),
    byLift: signal(false),
    leastLift: signal<number | null>(null),
  };
}
