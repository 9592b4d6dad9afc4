// A fake of anywidget's model, and makers of what the kernel would send.
import type { Column, TreePayload } from "../../js/src/state/protocol.ts";
import type { Model } from "../../js/src/state/synced.ts";

type Listener = (...args: never[]) => void;

export interface FakeModel extends Model {
  /** What the front-end sent. */
  sent: Record<string, unknown>[];
  /** Set a trait, as the kernel does. */
  set(name: string, value: unknown): void;
  /** Send a message, as the kernel does. */
  tell(message: unknown, buffers?: DataView[]): void;
  /** Let an event happen, as the host does. */
  fire(event: string): void;
  /** How many listeners there are. */
  listening(): number;
}

export function fakeModel(state: Record<string, unknown> = {}): FakeModel {
  const listeners: [string, Listener][] = [];
  const fire = (event: string, ...args: unknown[]) => {
    for (const [own, listener] of [...listeners]) if (own === event) listener(...(args as never[]));
  };
  const sent: Record<string, unknown>[] = [];
  return {
    sent,
    get: (name) => state[name],
    on: (event, listener) => void listeners.push([event, listener]),
    off(event, listener) {
      const at = listeners.findIndex(([own, known]) => own === event && known === listener);
      if (at >= 0) listeners.splice(at, 1);
    },
    send: (content) => void sent.push(content as Record<string, unknown>),
    set(name, value) {
      state[name] = value;
      fire(`change:${name}`);
    },
    tell: (message, buffers = []) => fire("msg:custom", message, buffers),
    fire,
    listening: () => listeners.length,
  };
}

const KINDS = {
  "<i4": Int32Array,
  "<u2": Uint16Array,
  "<f4": Float32Array,
  "<f8": Float64Array,
  "|u1": Uint8Array,
};

/** A column as it travels; `offset` bytes of something else stand before it in its buffer. */
export function column(dtype: Column["dtype"], values: ArrayLike<number>, offset = 0): Column {
  const own = new Uint8Array(KINDS[dtype].from(values).buffer);
  const shared = new Uint8Array(offset + own.length);
  shared.set(own, offset);
  return { dtype, data: new DataView(shared.buffer, offset) };
}

export interface Node {
  parent: number;
  text: string;
  /** Probability after its parent. */
  p: number;
  /** By default one number for each text. */
  id?: number;
  expanded?: boolean;
}

export const ROOT: Node = { parent: -1, text: "", p: 1, id: -1 };
export const END_ID = 1;

/** Rows `first` to `stop` of a tree, as the kernel sends them. */
export function treePayload(
  nodes: Node[],
  {
    first = 0,
    stop = nodes.length,
    offset = 0,
    ...head
  }: {
    first?: number;
    stop?: number;
    offset?: number;
  } & Partial<TreePayload> = {},
): TreePayload {
  const numbers = new Map<string, number>();
  const ids: number[] = [];
  let before = 0;
  const token = nodes.slice(0, stop).map(({ text, id }, row) => {
    if (row === first) before = numbers.size;
    const key = `${id} ${text}`;
    if (!numbers.has(key)) {
      ids.push(id ?? 100 + numbers.size);
      numbers.set(key, numbers.size);
    }
    return numbers.get(key) as number;
  });
  const sent = nodes.slice(first, stop);
  return {
    label: "feature 7",
    stem: "sae-feature-7",
    request: { feature: 7, cutoff: 5e-5, top_k: 5, max_depth: 25 },
    provenance: { model: {}, sae: {}, versions: {} },
    status: "complete",
    prompt: 'A typical definition of "{ghost}" would be "',
    end_ids: [END_ID],
    closing: '"',
    covered: 0.5,
    run: 1,
    first,
    settled: stop,
    parent: column(
      "<i4",
      sent.map(({ parent }) => parent),
      offset,
    ),
    token: column("<u2", token.slice(first), offset),
    probability: column(
      "<f4",
      sent.map(({ p }) => p),
      offset,
    ),
    expanded: column(
      "|u1",
      sent.map(({ expanded = true }) => (expanded ? 1 : 0)),
      offset,
    ),
    first_token: before,
    token_id: column("<i4", ids.slice(before), offset),
    text: [...numbers.keys()].slice(before).map((key) => key.slice(key.indexOf(" ") + 1)),
    ...head,
  };
}

/** Numbers from 0 to 1 that are the same every time. */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A tree of so many nodes, grown as the kernel grows it: the most probable first. */
export function randomTree(seed: number, count: number, words: string[], widest = 5): Node[] {
  const random = seeded(seed);
  const nodes: Node[] = [];
  // A heap of what may come next.
  const heap: { node: Node; cumulative: number }[] = [{ node: ROOT, cumulative: 1 }];
  const swap = (one: number, other: number) => {
    [heap[one], heap[other]] = [heap[other], heap[one]];
  };
  const push = (node: Node, cumulative: number) => {
    let at = heap.push({ node, cumulative }) - 1;
    for (
      let up = (at - 1) >> 1;
      at && heap[up].cumulative < heap[at].cumulative;
      up = (at - 1) >> 1
    ) {
      swap(at, up);
      at = up;
    }
  };
  const pop = () => {
    swap(0, heap.length - 1);
    const best = heap.pop() as (typeof heap)[number];
    for (let at = 0; ; ) {
      const below = [2 * at + 1, 2 * at + 2].filter((child) => child < heap.length);
      below.sort((one, other) => heap[other].cumulative - heap[one].cumulative);
      if (!below.length || heap[below[0]].cumulative <= heap[at].cumulative) return best;
      swap(at, below[0]);
      at = below[0];
    }
  };
  while (nodes.length < count) {
    const { node, cumulative } = pop();
    const row = nodes.push(node) - 1;
    const children = row ? Math.ceil(random() * widest) : widest;
    let rest = 0.999;
    for (let child = 0; child < children; child += 1) {
      const p = Math.fround(rest * (0.2 + 0.6 * random()));
      rest -= p;
      push({ parent: row, text: words[Math.floor(random() * words.length)], p }, cumulative * p);
    }
  }
  return nodes;
}
