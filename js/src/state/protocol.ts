// What Python and the browser say to each other: the twin of widget/protocol.py.
//
// The kernel alone writes the synced traits. The browser sends messages, each with a number of its
// own (`rid`) that comes back in the reply; what is asked again under the same number is answered
// again, and not done twice. Numbers rise, and what comes late changes nothing that a later message
// has changed since. Rows of a growing result come in `append` messages: they say at which row they
// begin, taking the place of what was there, and how many rows are settled by now. Whoever lacks
// settled rows before the first asks for them with `since`.

/** A column of numbers as it travels: numpy's name of the dtype, and its bytes. */
export interface Column {
  dtype: "<i4" | "<u2" | "<f4" | "<f8" | "|u1";
  data: DataView;
}

/** An intervention as Python's to_dict() writes it: its kind, its feature, how strong, where. */
export type Intervention = Record<string, null | boolean | number | string | number[]>;

export type Value = null | boolean | number | string | number[] | string[] | Intervention[];
export type Values = Record<string, Value>;

/** One option of a request, with what a control needs to know of it. */
export interface Control {
  name: string;
  /** Request class that declares it, as a heading: "vector", "tree", "tokens", "steering". */
  group: string;
  kind:
    | "int"
    | "float"
    | "bool"
    | "str"
    | "ints"
    | "floats"
    | "strs"
    | "interventions"
    | "direction";
  optional: boolean;
  default: Value;
  help: string;
  unit: string;
  /** What is allowed, in words; empty if everything is. */
  range: string;
  minimum: number | null;
  maximum: number | null;
  above: number | null;
  slider: [number, number] | null;
  log: boolean;
  choices: string[];
}

/** An SAE that can be chosen. */
export interface Choice {
  release: string;
  sae_id: string;
  layer: number | null;
  /** What tells it from others of its layer. */
  label: string;
  /** Whether it is there already; another is loaded when it is chosen. */
  held: boolean;
}

/** The model and the SAE; null while they are being loaded. */
export interface SubjectInfo {
  model: string;
  /** Empty where the subject has no SAE. */
  sae: string;
  release: string;
  hook_name: string;
  layer: number | null;
  /** Number of features, 0 without an SAE. */
  width: number;
  d_model: number;
  vocabulary_size: number;
  device: string;
  dtype: string;
  /** Address of the SAE's features at Neuronpedia, to which the index is added; null: not there. */
  neuronpedia: string | null;
  /** Features to look at first. */
  featured: { feature: number; label: string }[];
  /** The SAEs to choose from, this one among them, by layer. */
  saes: Choice[];
  /** What an option of None means for this subject, such as the default scale. */
  effective: Values;
}

export type State = "loading" | "growing" | "done" | "partial" | "error";

export interface Status {
  state: State;
  /** What is going on, or went on, in a few words. */
  text: string;
  /** 0 to 1; null where it is not known how far it is. */
  progress: number | null;
  /** Number of the run that the figures belong to; appended rows carry the same. */
  run: number;
  nodes: number;
  /** Probability of the answers that begin with a path to a tip of the tree. */
  covered: number;
  /** Cumulative probability above which the tree is complete. */
  threshold: number;
  /** Seconds of growth. */
  seconds: number;
  /** Whether a partial tree can be grown on. */
  resumable: boolean;
  /** In plain words, with what to do; null when all is well. */
  error: string | null;
}

/** How an analysis stands that runs only when it is asked for. */
export interface Job {
  /** "stale": what is shown answers other options than are set now. */
  state: "idle" | "running" | "done" | "partial" | "error" | "stale";
  text: string;
  /** 0 to 1; null where it is not known how far it is. */
  progress: number | null;
  error: string | null;
}

export interface Provenance {
  model: Record<string, Value>;
  sae: Record<string, Value>;
  versions: Record<string, string>;
}

/** What the payloads of all results have. */
export interface Payload {
  /** What the result is about, such as "feature 302". */
  label: string;
  /** What the names of its files begin with: "tree.json" is saved as stem-tree.json. */
  stem: string;
  request: Values;
  provenance: Provenance;
  /** Of what the kernel told of results, this is the so-manieth; a saved copy has no such numbers. */
  number?: number;
}

/** Rows of a tree from `first` on. Rows are most probable first, a parent before its children. */
export interface TreeRows {
  run: number;
  first: number;
  /** How many rows, from row 0 on, no row that is still found can come before. */
  settled: number;
  /** int32, -1 for the root, which is row 0. */
  parent: Column;
  /** Index into the list of distinct tokens. */
  token: Column;
  /** Probability of the token after its parent, float32. */
  probability: Column;
  /** 1 where the node was run; a tip that was not may go on. */
  expanded: Column;
  /** Distinct tokens that appear for the first time in these rows: where they begin, … */
  first_token: number;
  /** … their ids, … */
  token_id: Column;
  /** … and their texts, a leading space included. Entry 0 is the root: id -1, text "". */
  text: string[];
}

export interface TreePayload extends Payload, TreeRows {
  status: "complete" | "budget" | "partial";
  /** Lift over random directions for each row, float32; none where it was not measured. */
  lift?: Column | null;
  /** Length of the ghost's direction, which the request may leave open. */
  scale?: number | null;
  /** The prompt, with {ghost} where the vector stands. */
  prompt: string;
  /** Ids of the tokens that end a text. */
  end_ids: number[];
  /** What closes the quotation that the prompt leaves open; empty if none is open. */
  closing: string;
  covered: number;
}

export interface TokensPayload extends Payload {
  exponent: number;
  limit: number;
  /** How many tokens passed the filters. */
  candidates: number;
  /** Every token that is among the first `limit` at some exponent of the slider's range, so that
   * the slider ranks them anew without asking: float64 cosines, int32 ids. */
  token_id: Column;
  cosine: Column;
  centroid_cosine: Column;
  text: string[];
  /** Range of exponents for which the list above is enough. */
  exponents: [number, number];
}

export interface LensPayload extends Payload {
  /** Four blocks in one list: top and bottom of "normalised", then of "raw". */
  lens: ("normalised" | "raw")[];
  side: ("top" | "bottom")[];
  rank: Column;
  token_id: Column;
  logit: Column;
  text: string[];
}

/** What the results of analyses that run on request have besides. */
export interface RequestedPayload extends Payload {
  status: "complete" | "partial";
}

/** One text, a token a place. */
export interface SteeredText {
  strength: number;
  /** "unsteered", "+0.5", "clamped at 8". */
  label: string;
  tokens: string[];
  /** Whether the token was written by the model; the others are the prompt's. */
  generated: boolean[];
  /** Whether the token is none of the unsteered text. */
  differs: boolean[];
  /** Under the model that wrote the token; null for those of the prompt. */
  probability?: (number | null)[];
  /** Of the explored feature; null while it is not known, and where a direction has none. */
  activation: number[] | null;
  /** Whether the model ended the text. */
  ended: boolean;
}

export interface SteeringPayload extends RequestedPayload {
  /** The unsteered text first. */
  texts: SteeredText[];
  /** Activation that is shown in full colour. */
  largest: number;
  unit: string;
}

/** Lists have one value for each strength, which rise. */
export interface DosePayload extends RequestedPayload {
  strength: number[];
  /** From the unsteered distribution of the next token, in nats. */
  kl: number[];
  /** Of the ten most probable next tokens, in nats. */
  entropy: number[];
  /** Of the steered text under the unsteered model; null where there is no text. */
  perplexity: (number | null)[];
  targets: { token: string; probability: number[] }[];
  activations: { feature: number; activation: (number | null)[] }[];
  texts: string[];
  /** Strength that adds half the mean norm of the residual stream; null where none does. */
  half_norm: number | null;
  unit: string;
}

/** Lists have one value for each scale, which rise. */
export interface ScalesPayload extends RequestedPayload {
  scale: number[];
  self_similarity: number[];
  cross_entropy: number[];
  composite: number[];
  /** Index of the best scale. */
  best: number;
  /** What is to be known of it; empty where there is nothing. */
  caveat: string;
  /** Scale that is in use. */
  shown: number | null;
  /** The most probable short answer at each scale. */
  answers: string[];
}

/** Two trees in one: the union, where p makes the products give the larger P of both. */
export interface DifferencePayload extends TreePayload {
  status: "complete" | "partial";
  /** P in either tree, float32; -1 where the node is not in it. */
  one: Column;
  two: Column;
  names: [string, string];
  counts: { both: number; one: number; two: number };
  /** P of a node in the tree that lacks it, where it was scored; NaN where it is not known. */
  exact_one?: Column;
  exact_two?: Column;
}

export interface LoopPayload extends RequestedPayload {
  /** The most probable definitions; `row` is that of the tree shown, null where it has none. */
  definitions: {
    text: string;
    probability: number;
    activation: number;
    row: number | null;
    complete: boolean;
  }[];
  random: { text: string; activation: number }[];
  /** AUROC of the definitions against those of random directions, and its 95 % interval. */
  score: number | null;
  low: number | null;
  high: number | null;
  feature: number;
  /** Activation at each row of the tree shown, float32; NaN where its text was not run. */
  nodes: Column;
  template: string;
}

/** Messages to the kernel. */
export type Ask =
  /**
   * `run` is that of the tree which is known: of a growing one with another run all rows are sent.
   * `known` are the numbers of the results that are known: others are sent again.
   */
  | { type: "hello"; run: number | null; known: Record<string, number | null> }
  | { type: "set"; values: Values }
  | { type: "select"; release: string; sae_id: string }
  | { type: "reset" }
  /** Without a panel it is about the tree. */
  | { type: "run"; panel?: string }
  | { type: "resume" }
  | { type: "cancel"; panel?: string }
  | { type: "since"; panel: string; run: number; first: number }
  | { type: "export"; file: string };

/** Messages from the kernel, their buffers put back in place. */
export type Tell =
  | {
      type: "reply";
      rid: string;
      ok: true;
      file?: { name: string; mime: string; data: DataView };
      /** It was answered before; what was sent then is not kept, and is to be asked for anew. */
      gone?: true;
    }
  | { type: "reply"; rid: string; ok: false; error: string }
  /** It was heard before, and is not done with: the reply comes later. */
  | { type: "doing"; rid: string }
  | { type: "status"; status: Status }
  /** What an analysis has found so far while it runs; the whole comes in its trait. */
  | { type: "partial"; panel: string; payload: Payload }
  | { type: "append"; panel: "tree"; status: Status; rows: TreePayload };
