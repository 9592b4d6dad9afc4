// What the kernel says of lift, of two trees, of the closed loop and of scales.
import type {
  Control,
  DifferencePayload,
  Intervention,
  LoopPayload,
  ScalesPayload,
} from "../../js/src/state/protocol.ts";
import { column, type Node, ROOT, treePayload } from "./model.ts";

export const HOSTILE = "</script><img src=x onerror=alert(1)>\u202e";

export const NODES: Node[] = [
  ROOT,
  { parent: 0, text: " a", p: 0.5 }, // 1
  { parent: 0, text: " the", p: 0.25 }, // 2
  { parent: 0, text: HOSTILE, p: 0.125 }, // 3
  { parent: 1, text: " dog", p: 0.2 }, // 4
  { parent: 2, text: " barking", p: 0.2 }, // 5
];

/** The same nodes with what is known of them besides. */
export const LIFT = [0, -0.5, 0.25, 1, -2, 3];
export const liftedTree = (run = 1) => treePayload(NODES, { run, lift: column("<f4", LIFT) });

export const DIFFERENCE: DifferencePayload = {
  ...treePayload(NODES),
  status: "complete",
  one: column("<f4", [1, 0.5, 0.1, 0.125, 0.1, -1]),
  two: column("<f4", [1, 0.25, 0.25, -1, 0.1, 0.05]),
  names: ["weights encoder", `weights ${HOSTILE}`],
  counts: { both: 4, one: 1, two: 1 },
};

const HEAD = {
  label: "feature 7",
  stem: "sae-feature-7",
  request: { feature: 7 },
  provenance: { model: {}, sae: {}, versions: {} },
  status: "complete" as const,
};

export const LOOP: LoopPayload = {
  ...HEAD,
  definitions: [
    { text: "a dog", probability: 0.1, activation: 4, row: 4, complete: true },
    { text: HOSTILE, probability: 0.125, activation: 0.5, row: 3, complete: false },
    { text: "the barking", probability: 0.05, activation: 6.25, row: 5, complete: false },
  ],
  random: [0, 0, 1, 2].map((activation) => ({ text: "a thing", activation })),
  score: 0.8333,
  low: 0.708,
  high: 0.921,
  feature: 7,
  nodes: column("<f4", [Number.NaN, 1, 0, 0.5, 4, Number.NaN]),
  template: "{definition}",
};

export const SCALES: ScalesPayload = {
  ...HEAD,
  scale: [1, 2, 4, 8],
  self_similarity: [0.1, 0.4, 0.7, 0.9],
  cross_entropy: [9, 5, 4, 8],
  composite: [-0.6, -0.1, 0.2, -0.2],
  best: 2,
  caveat: "",
  shown: 1,
  answers: ["a", "a dog", HOSTILE, "dog dog"],
};

export const DONE = { state: "done", text: "", progress: null, error: null };

export const INTERVENTIONS: Intervention[] = [
  {
    kind: "steer",
    feature: 4021,
    strength: 0.5,
    unit: "residual_norm",
    at: "generated",
    skip_bos: true,
  },
  { kind: "ablate", feature: 9, at: [0, -1], skip_bos: false },
];

/** An option as the schema has it. */
export function option(
  name: string,
  group: string,
  kind: Control["kind"],
  usual: Control["default"],
): Control {
  return {
    name,
    group,
    kind,
    optional: usual === null,
    default: usual,
    help: `What ${name} is.`,
    unit: "",
    range: "",
    minimum: null,
    maximum: null,
    above: null,
    slider: null,
    log: false,
    choices: [],
  };
}
