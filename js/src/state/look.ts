// LOCAL to one view: by what a tree is coloured and sorted, beyond its probabilities.
import { type Signal, signal } from "@preact/signals";
import type { Local } from "./local.ts";

export const COLOURS = ["probability", "lift", "activation"] as const;
export type Colour = (typeof COLOURS)[number];

export interface Look {
  /** What the colours of nodes say, where the tree has it. */
  colour: Signal<Colour>;
  /** Siblings in the order of lift instead of probability. */
  byLift: Signal<boolean>;
  /** Hide nodes of less lift, unless something below them has more; null: hide none. */
  leastLift: Signal<number | null>;
}

const looks = new WeakMap<Local, Look>();

/** The look that belongs to a view. */
export function lookOf(local: Local): Look {
  const known = looks.get(local) ?? {
    colour: signal<Colour>("probability"),
    byLift: signal(false),
    leastLift: signal<number | null>(null),
  };
  looks.set(local, known);
  return known;
}
