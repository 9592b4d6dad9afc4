// The whole widget on a fake model, with what a kernel would have told it.
import { act } from "preact/test-utils";
import type {
  Control,
  LensPayload,
  Status,
  TokensPayload,
  Values,
} from "../../js/src/state/protocol.ts";
import widget from "../../js/src/widget.tsx";
// What Python says with schema(), but for the sources of the vector.
import schema from "./controls.json";
import { column, type FakeModel, fakeModel, ROOT, treePayload } from "./model.ts";

export const CONTROLS = schema as unknown as Control[];

export const VALUES: Values = {
  feature: 7,
  ...Object.fromEntries(CONTROLS.map(({ name, default: usual }) => [name, usual])),
};

export const SUBJECT = {
  model: "google/gemma-2b",
  sae: "blocks.6.hook_resid_post",
  release: "gemma-2b-res-jb",
  hook_name: "blocks.6.hook_resid_post",
  layer: 6,
  width: 16384,
  d_model: 2048,
  vocabulary_size: 256000,
  device: "cpu",
  dtype: "float32",
  neuronpedia: "https://www.neuronpedia.org/gemma-2b/6-res-jb/",
  featured: [
    { feature: 7, label: "a young dog" },
    { feature: 12, label: "vehicles" },
  ],
  saes: [
    {
      release: "gemma-2b-res-jb",
      sae_id: "blocks.6.hook_resid_post",
      layer: 6,
      label: "width 16k",
      held: true,
    },
  ],
  effective: { scale: 3.8, ghost_token: "OSS" },
};

export const STATUS: Status = {
  state: "done",
  text: "complete",
  progress: null,
  run: 1,
  nodes: 1234,
  covered: 0.871,
  threshold: 5e-5,
  seconds: 2,
  resumable: false,
  error: null,
};

const PROVENANCE = {
  model: { id: "google/gemma-2b", revision: "9cf48e5", dtype: "float32", device: "cpu" },
  sae: { id: "blocks.6.hook_resid_post" },
  versions: { "sae-explorer": "0.1.0", torch: "2.9.0" },
};

export const HOSTILE = ["</script><img src=x onerror=alert(1)>", "\u202egnp.exe", "a\nb", ""];

export function tokensPayload(count = 40, limit = 30): TokensPayload {
  const places = Array.from({ length: count }, (_, place) => place);
  return {
    label: "feature 7",
    stem: "sae-feature-7",
    request: { feature: 7, exponent: 1.4 },
    provenance: PROVENANCE,
    exponent: 1.4,
    limit,
    candidates: 8192,
    token_id: column(
      "<i4",
      places.map((place) => 1000 - place),
    ),
    // Every fifth equals its neighbour, so that ties are there to be broken.
    cosine: column(
      "<f8",
      places.map((place) => Math.cos((place - (place % 5 === 1 ? 1 : 0)) * 2.3) / 1.3),
      3,
    ),
    centroid_cosine: column(
      "<f8",
      places.map((place) => Math.sin((place - (place % 5 === 1 ? 1 : 0)) * 1.7)),
    ),
    text: places.map((place) => HOSTILE[place] ?? ` word${place}`),
    exponents: [0.1, 5],
  };
}

export function lensPayload(): LensPayload {
  const blocks = (["normalised", "raw"] as const).flatMap((lens) =>
    (["top", "bottom"] as const).flatMap((side) => [1, 2, 3].map((rank) => ({ lens, side, rank }))),
  );
  return {
    label: "decoder of feature 7",
    stem: "sae-decoder-of-feature-7",
    request: { feature: 7 },
    provenance: PROVENANCE,
    lens: blocks.map(({ lens }) => lens),
    side: blocks.map(({ side }) => side),
    rank: column(
      "<i4",
      blocks.map(({ rank }) => rank),
    ),
    token_id: column(
      "<i4",
      blocks.map((_, row) => row),
    ),
    logit: column(
      "<f4",
      blocks.map(({ side, rank }) => (side === "top" ? 5 - rank : rank - 5)),
    ),
    text: blocks.map(({ lens, side, rank }) =>
      rank === 3 ? HOSTILE[0] : ` ${lens}-${side}-${rank}`,
    ),
  };
}

export const FILES = [
  "tree.json",
  "tree.csv",
  "tree.nwk",
  "tree.dot",
  "tokens.csv",
  "lens.csv",
  "report.html",
];

export interface Shown {
  model: FakeModel;
  el: HTMLElement;
  /** The first element that a selector finds within the widget. */
  find<T extends HTMLElement = HTMLElement>(selector: string): T;
  /** A control by what assistive technology calls it. */
  named<T extends HTMLElement = HTMLInputElement>(label: string): T;
  button(text: string): HTMLButtonElement;
  /** What was asked of one type. */
  asked(type: string): Record<string, unknown>[];
  /** Answer the last question of a type. */
  answer(type: string, reply: Record<string, unknown>): Promise<void>;
  close(): void;
}

export async function show(state: Record<string, unknown> = {}): Promise<Shown> {
  const model = fakeModel({
    _subject: SUBJECT,
    _controls: CONTROLS,
    _values: VALUES,
    _status: STATUS,
    _files: FILES,
    _tokens: tokensPayload(),
    _lens: lensPayload(),
    _tree: treePayload([ROOT, { parent: 0, text: " a", p: 0.5 }], { provenance: PROVENANCE }),
    ...state,
  });
  const el = document.createElement("div");
  document.body.append(el);
  let close = () => {};
  await act(async () => {
    close = widget.render({ model, el });
  });
  const find = <T extends HTMLElement>(selector: string) => {
    const found = el.querySelector<T>(selector);
    if (!found) throw new Error(`There is no ${selector}.`);
    return found;
  };
  const asked = (type: string) => model.sent.filter((message) => message.type === type);
  return {
    model,
    el,
    find,
    asked,
    named: (label) => find(`[aria-label="${label}"]:not(fieldset, section)`),
    button(text) {
      const found = [...el.querySelectorAll("button")].find((button) =>
        button.textContent?.includes(text),
      );
      if (!found) throw new Error(`There is no button ${text}.`);
      return found;
    },
    async answer(type, reply) {
      const { rid } = asked(type).at(-1) as { rid: string };
      await act(async () => model.tell({ type: "reply", rid, ...reply }));
    },
    close() {
      close();
      el.remove();
    },
  };
}

/** Write into a field as a reader does. */
export async function write(field: HTMLInputElement | HTMLTextAreaElement, text: string, key = "") {
  await act(async () => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
  if (key) await press(field, key);
}

export async function press(element: Element, key: string) {
  await act(async () => {
    element.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, composed: true }),
    );
  });
}

export async function click(element: HTMLElement) {
  await act(async () => element.click());
}

export async function choose(field: HTMLSelectElement | HTMLInputElement, value?: string) {
  await act(async () => {
    if (value === undefined)
      (field as HTMLInputElement).checked = !(field as HTMLInputElement).checked;
    else field.value = value;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
