// What the kernel says of the analyses that run on request: their options, and results of them.
import type {
  Control,
  DosePayload,
  Job,
  RequestedPayload,
  SteeredText,
  SteeringPayload,
} from "../../js/src/state/protocol.ts";
import { CONTROLS, VALUES } from "./explorer.tsx";

function control(
  group: string,
  name: string,
  kind: Control["kind"],
  usual: Control["default"],
  more: Partial<Control> = {},
): Control {
  return {
    name,
    group,
    kind,
    optional: false,
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
    ...more,
  };
}

const ASKED: Control[] = [
  control("steering", "feature", "int", null, { optional: true }),
  control("steering", "text", "str", "I think that"),
  control("steering", "action", "str", "steer", { choices: ["steer", "clamp"] }),
  control("steering", "unit", "str", "residual_norm", {
    choices: ["residual_norm", "max_activation", "absolute"],
  }),
  control("steering", "at", "str", "all"),
  control("steering", "skip_bos", "bool", true),
  control("steering", "seed", "int", 0),
  control("sampling", "strengths", "floats", [0.5, 1]),
  control("sampling", "temperature", "float", 0, { slider: [0, 2] }),
  control("sampling", "top_p", "float", 1, { slider: [0.05, 1] }),
  control("sampling", "frequency_penalty", "float", 0, { slider: [0, 2] }),
  control("sampling", "max_tokens", "int", 40, { slider: [5, 200] }),
  control("dose", "doses", "floats", []),
  control("dose", "targets", "strs", []),
  control("dose", "watched", "ints", []),
  control("dose", "dose_tokens", "int", 20),
];

const own = CONTROLS.filter(({ name }) => !ASKED.some((one) => one.name === name));

/** Traits of an explorer that has these analyses. */
export const REQUESTED = {
  _controls: [...own, ...ASKED],
  _values: {
    ...Object.fromEntries(ASKED.map(({ name, default: usual }) => [name, usual])),
    ...VALUES,
  },
};

export function job(more: Partial<Job> = {}): Job {
  return { state: "idle", text: "", progress: null, error: null, ...more };
}

const HEAD: RequestedPayload = {
  label: "feature 302",
  stem: "dictionary-sae_layer_3-feature-302",
  request: { feature: 302 },
  provenance: { model: {}, sae: {}, versions: {} },
  status: "complete",
};

/** A text of which the first `prompt` tokens are the prompt's. */
export function steered(
  label: string,
  tokens: string[],
  {
    prompt = 2,
    plain = tokens,
    ...more
  }: Partial<SteeredText> & { prompt?: number; plain?: string[] } = {},
): SteeredText {
  return {
    strength: 0,
    label,
    tokens,
    generated: tokens.map((_, place) => place >= prompt),
    differs: tokens.map((token, place) => token !== plain[place]),
    activation: tokens.map((_, place) => place),
    ended: false,
    ...more,
  };
}

export function steeringPayload(more: Partial<SteeringPayload> = {}): SteeringPayload {
  const plain = ["I", " think", " it", " rains", "</s>"];
  return {
    ...HEAD,
    request: { feature: 302, text: "I think" },
    texts: [
      steered("unsteered", plain, { ended: true }),
      steered("+0.5", ["I", " think", " it", " barks", "<script>alert(1)</script>\n"], {
        plain,
        strength: 0.5,
      }),
    ],
    largest: 8,
    unit: "residual_norm",
    ...more,
  };
}

export function dosePayload(more: Partial<DosePayload> = {}): DosePayload {
  const strength = Array.from({ length: 16 }, (_, place) => -0.75 + place / 8);
  return {
    ...HEAD,
    strength,
    kl: strength.map((value) => 3 * value ** 2),
    entropy: strength.map((value) => 2 - value),
    perplexity: strength.map((value) => (value < -0.5 ? null : 4 * 10 ** Math.abs(2 * value))),
    targets: [
      { token: " dog", probability: strength.map((value) => 1 / (1 + Math.exp(-5 * value))) },
    ],
    activations: [
      { feature: 302, activation: strength.map((value) => Math.max(0, 4 * value)) },
      { feature: 17, activation: strength.map((value) => 1 - value / 2) },
    ],
    texts: strength.map((value) => ` text at ${value}`),
    half_norm: 0.5,
    unit: "residual_norm",
    ...more,
  };
}
