// A definition tree as columns, and what of it is to be seen.
//
// Rows are most probable first and a parent comes before its children, so hiding what is improbable
// cuts a tail off, and one pass over the rows, forwards or backwards, sees every node after or before
// those below it. Nothing here needs a stack. A tree that grows keeps its settled rows, and only what
// comes after them changes.
import { joinTokens } from "../text.ts";
import { numbers } from "./columns.ts";
import type { Payload, Provenance, TreePayload, Values } from "./protocol.ts";

const END = 1;
const CLOSES = 2;
const QUIET = 4;
const BYTE = 8;

/** The columns. */
class Rows {
  count = 0;
  parent = new Int32Array(0);
  token = new Int32Array(0);
  probability = new Float32Array(0);
  cumulative = new Float64Array(0);
  depth = new Int32Array(0);
  expanded = new Uint8Array(0);
  /** The children of a row from the most probable on; 0, which is nobody's child, ends a list. */
  firstChild = new Int32Array(0);
  lastChild = new Int32Array(0);
  nextSibling = new Int32Array(0);
  /** Row N2; null where it was not measured. */
  lift: Float32Array | null = null;
  /** Distinct tokens: text, id, and what kind they are of. */
  texts: string[] = [];
  ids: number[] = [];
  kinds: number[] = [];

  /** These rows up to `first`, with room for others after them. */
  upTo(first: number, firstToken: number): Rows {
    const rows = new Rows();
    rows.reserve(first);
    for (let row = 0; row < first; row += 1) {
      rows.put(row, this.parent[row], this.token[row], this.probability[row]);
    }
    rows.expanded.set(this.expanded.subarray(0, first));
    if (this.lift) rows.lift = grown(this.lift.subarray(0, first), new Float32Array(first));
    rows.count = first;
    rows.texts = this.texts.slice(0, firstToken);
    rows.ids = this.ids.slice(0, firstToken);
    rows.kinds = this.kinds.slice(0, firstToken);
    return rows;
  }

  add(payload: TreePayload): void {
    const { first, closing, end_ids, text } = payload;
    numbers(payload.token_id).forEach((id, at) => {
      this.texts.push(text[at]);
      this.ids.push(id);
      this.kinds.push(kindOf(text[at], id, closing, end_ids));
    });
    const parent = numbers(payload.parent);
    const token = numbers(payload.token);
    const probability = numbers(payload.probability);
    this.count = first + parent.length;
    this.reserve(this.count);
    for (let at = 0; at < parent.length; at += 1) {
      this.put(first + at, parent[at], token[at], probability[at]);
    }
    this.expanded.set(numbers(payload.expanded), first);
    if (payload.lift) {
      this.lift = grown(this.lift ?? new Float32Array(0), new Float32Array(this.count));
      this.lift.set(numbers(payload.lift), first);
    } else {
      this.lift = null;
    }
  }

  private put(row: number, above: number, token: number, probability: number): void {
    this.parent[row] = above;
    this.token[row] = token;
    this.probability[row] = probability;
    if (above < 0) {
      this.cumulative[row] = 1;
      return;
    }
    // No larger than that of the row before: float32 rounds, and the order is what is known.
    this.cumulative[row] = Math.min(this.cumulative[above] * probability, this.cumulative[row - 1]);
    this.depth[row] = this.depth[above] + 1;
    if (this.lastChild[above]) this.nextSibling[this.lastChild[above]] = row;
    else this.firstChild[above] = row;
    this.lastChild[above] = row;
  }

  private reserve(count: number): void {
    if (count <= this.parent.length) return;
    const room = Math.max(count, 2 * this.parent.length);
    this.parent = grown(this.parent, new Int32Array(room));
    this.token = grown(this.token, new Int32Array(room));
    this.probability = grown(this.probability, new Float32Array(room));
    this.cumulative = grown(this.cumulative, new Float64Array(room));
    this.depth = grown(this.depth, new Int32Array(room));
    this.expanded = grown(this.expanded, new Uint8Array(room));
    this.firstChild = grown(this.firstChild, new Int32Array(room));
    this.lastChild = grown(this.lastChild, new Int32Array(room));
    this.nextSibling = grown(this.nextSibling, new Int32Array(room));
  }
}

function grown<T extends { set(from: T): void }>(from: T, to: T): T {
  to.set(from);
  return to;
}

function kindOf(text: string, id: number, closing: string, endIds: number[]): number {
  const closes = closing !== "" && text.includes(closing);
  const quiet = /^[\s\u2581"'`’”»]*$/u.test(text) || (closes && text.trim() === closing);
  return (
    (endIds.includes(id) ? END : 0) |
    (closes ? CLOSES : 0) |
    (quiet && id >= 0 ? QUIET : 0) |
    (/<0x[0-9A-F]{2}>/.test(text) ? BYTE : 0)
  );
}

/** An answer, and the row at which it is complete or cut off. */
export interface Definition {
  row: number;
  text: string;
}

/** A tree as far as it has grown. It never changes: a longer one is another object. */
export class TreeData implements Payload {
  readonly run: number;
  /** Number of nodes, the root included. */
  readonly count: number;
  /** How many rows, from the first, stay as they are however the tree grows on. */
  readonly settled: number;
  readonly label: string;
  readonly stem: string;
  readonly request: Values;
  readonly provenance: Provenance;
  readonly status: TreePayload["status"];
  readonly prompt: string;
  readonly covered: number;
  /** Length of the direction that it was grown from, where that is known. */
  readonly scale: number | null;
  /** What closes the quotation that the prompt leaves open; empty: nothing does. */
  private readonly closing: string;

  private constructor(
    private readonly columns: Rows,
    head: TreePayload,
  ) {
    this.count = columns.count;
    this.run = head.run;
    this.settled = head.settled;
    this.label = head.label;
    this.stem = head.stem;
    this.request = head.request;
    this.provenance = head.provenance;
    this.status = head.status;
    this.prompt = head.prompt;
    this.covered = head.covered;
    this.closing = head.closing;
    this.scale = typeof head.scale === "number" ? head.scale : null;
  }

  static from(payload: TreePayload): TreeData {
    const columns = new Rows();
    columns.add(payload);
    return new TreeData(columns, payload);
  }

  /** The tree with other rows from the payload's first one on. */
  append(payload: TreePayload): TreeData {
    const columns = this.columns.upTo(payload.first, payload.first_token);
    columns.add(payload);
    return new TreeData(columns, payload);
  }

  /** The row of `other` that stands for the same node as `row` does here; -1 if none does. */
  rowIn(other: TreeData, row: number): number {
    if (row <= 0 || row < Math.min(this.settled, other.settled)) return row;
    const above = this.rowIn(other, this.parent[row]);
    let child = above < 0 ? 0 : other.firstChild[above];
    while (child && other.tokenId(child) !== this.tokenId(row)) child = other.nextSibling[child];
    return child || -1;
  }

  /** Row of the parent, -1 for the root. */
  get parent(): Int32Array {
    return this.columns.parent;
  }
  /** Number of the distinct token, for what is remembered of each. */
  get token(): Int32Array {
    return this.columns.token;
  }
  /** p: probability of the token after its parent. */
  get probability(): Float32Array {
    return this.columns.probability;
  }
  /** P: product of the probabilities along the path. */
  get cumulative(): Float64Array {
    return this.columns.cumulative;
  }
  get depth(): Int32Array {
    return this.columns.depth;
  }
  /** The most probable child of a row; 0: none. */
  get firstChild(): Int32Array {
    return this.columns.firstChild;
  }
  get nextSibling(): Int32Array {
    return this.columns.nextSibling;
  }

  /**
   * Row N2: natural logarithm of how many times more probable the whole path is than with random
   * directions of the same length; null where it was not measured.
   */
  get lift(): Float32Array | null {
    return this.columns.lift;
  }

  /** The least cumulative probability that the tree was grown to. */
  get cutoff(): number {
    const { cutoff } = this.request;
    return typeof cutoff === "number" && cutoff > 0 ? cutoff : this.cumulative[this.count - 1];
  }

  /** Number of distinct tokens. */
  get distinct(): number {
    return this.columns.texts.length;
  }

  tokenText(row: number): string {
    return this.columns.texts[this.token[row]];
  }

  tokenId(row: number): number {
    return this.columns.ids[this.token[row]];
  }

  /** Rows from the root's child down to `row`; empty for the root. */
  path(row: number): number[] {
    const rows: number[] = [];
    for (let at = row; at > 0; at = this.parent[at]) rows.push(at);
    return rows.reverse();
  }

  /** The definition so far. */
  textOf(row: number): string {
    // The end of a text is no part of what it says.
    const said = this.path(row).filter((at) => !this.endsText(at));
    return joinTokens(said.map((at) => this.tokenText(at))).trimStart();
  }

  /** Whether the token is one that ends a text. */
  endsText(row: number): boolean {
    return (this.kind(row) & END) !== 0;
  }

  /** Whether the answer is complete here: the text ends, or the quotation is closed. */
  isEnd(row: number): boolean {
    return (this.kind(row) & (END | CLOSES)) !== 0;
  }

  /** Whether the token is empty or only closes a quotation. */
  isQuiet(row: number): boolean {
    return (this.kind(row) & QUIET) !== 0;
  }

  /** Whether it is not known how the answer goes on: growth stopped here. */
  isOpenTip(row: number): boolean {
    return !this.firstChild[row] && !this.columns.expanded[row] && !this.isEnd(row);
  }

  /** Number of rows, from the first, that are at least so probable. */
  above(probability: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle] >= probability) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * Rows at which a text comes to be part of the definition so far, which it is not at their
   * parents. Upper and lower case are the same.
   */
  search(query: string): number[] {
    const wanted = folded(query);
    if (!wanted) return [];
    const { parent, token, columns } = this;
    const words = columns.texts.map(folded);
    const found: number[] = [];
    // What of a definition may be the beginning of a match that the next token ends.
    const tail: string[] = new Array(this.count);
    const state = new Uint8Array(this.count);
    const keep = wanted.length - 1;
    tail[0] = "";
    for (let row = 1; row < this.count; row += 1) {
      const above = parent[row];
      const before = state[above];
      const kind = columns.kinds[token[row]];
      const bytes = (before | kind) & BYTE;
      if (before & CONTAINS) {
        state[row] = CONTAINS;
      } else if (bytes) {
        // Bytes become characters only together, so the whole path is read.
        const contains = folded(this.textOf(row)).includes(wanted);
        state[row] = bytes | (contains ? CONTAINS : 0);
        if (contains) found.push(row);
      } else {
        const word = kind & END ? "" : words[token[row]];
        const text = before & BEGUN ? tail[above] + word : word.trimStart();
        if (text.length >= wanted.length && text.includes(wanted)) {
          state[row] = CONTAINS;
          found.push(row);
        } else {
          state[row] = before | (text ? BEGUN : 0);
          tail[row] = keep ? text.slice(-keep) : "";
        }
      }
    }
    return found;
  }

  /**
   * Answers as text, the most probable first, as Python's `definitions` words them: up to where the
   * quotation is closed or the text ends, or to a tip, for which "…" stands.
   */
  definitions(limit: number, order: ArrayLike<number> | null = null): Definition[] {
    const behind = new Uint8Array(this.count);
    const rows: number[] = [];
    for (let row = 1; row < this.count && (order || rows.length < limit); row += 1) {
      const above = this.parent[row];
      if (behind[above] || (above > 0 && this.isEnd(above))) behind[row] = 1;
      else if (this.isEnd(row) || !this.firstChild[row]) rows.push(row);
    }
    if (order) rows.sort((one, other) => falling(order, one, other));
    return rows.slice(0, limit).map((row) => {
      const text = this.textOf(row);
      if (!this.isEnd(row)) return { row, text: `${text}…` };
      const closed = this.kind(row) & CLOSES ? text.indexOf(this.closing) : -1;
      return { row, text: closed < 0 ? text : text.slice(0, closed) };
    });
  }

  private kind(row: number): number {
    return this.columns.kinds[this.token[row]];
  }
}

const CONTAINS = 1;
const BEGUN = 2;

/** Text as it is compared: without case, letter by letter, whatever stands beside a letter. */
export function folded(text: string): string {
  return text.toLowerCase().replaceAll("ς", "σ");
}

/** What a reader has chosen to see. */
export interface Choice {
  /** Open where P is at least this; null: as many nodes as fill a screen. */
  openAbove: number | null;
  /** How many nodes about fill a screen. */
  screen?: number;
  /** What was opened (true) and folded (false) by hand. */
  toggled: ReadonlyMap<number, boolean>;
  /** Hide nodes less probable (P) than this. */
  trim: number;
  /** Hide quiet tokens, and what follows them. */
  quiet: boolean;
  /** By row: siblings are in the order of this, the largest first; without it, of P. */
  order?: ArrayLike<number> | null;
  /** Hide what this leaves out, unless something below it stays. */
  keep?: ((row: number) => boolean) | null;
}

/** What of a tree is left by trim and filter, and which of it is in sight. */
export interface Shown {
  tree: TreeData;
  /** Rows in sight, in the order in which they are read: each before what is below it. */
  rows: Int32Array;
  /** By row: its index in `rows`, or -1. */
  place: Int32Array;
  /** By row: how many nodes its branch has in sight, itself included. */
  extent: Int32Array;
  /** By row: how many nodes its branch has at all, itself included; 0: the row is hidden. */
  size: Int32Array;
  /** By row: whether what is below it is in sight, where there is anything. */
  open: Uint8Array;
  /** By row: what siblings are in the order of, the largest first; null: P. */
  order: ArrayLike<number> | null;
}

/** How many rows a drawing opens by itself to fill, by and by, a screen of so many nodes. */
function firstOpen(tree: TreeData, screen: number): number {
  // Of the children that a node may have, about half pass the cutoff. Counted in rows, so that
  // nothing opens or folds while a tree grows.
  const widest = typeof tree.request.top_k === "number" ? tree.request.top_k : 5;
  return Math.max(4, Math.round((2 * screen) / (1 + widest)));
}

export function show(tree: TreeData, choice: Choice): Shown {
  const { parent } = tree;
  const { count } = tree;
  const size = new Int32Array(count);
  const extent = new Int32Array(count);
  const place = new Int32Array(count).fill(-1);
  const open = new Uint8Array(count);

  const left = Math.max(1, tree.above(choice.trim));
  open.fill(
    1,
    0,
    choice.openAbove === null ? firstOpen(tree, choice.screen ?? 50) : tree.above(choice.openAbove),
  );
  // The first tokens are what there is to see when all else is folded.
  open[0] = 1;
  for (const [row, wanted] of choice.toggled) if (row < count) open[row] = wanted ? 1 : 0;

  const { order = null, keep = null } = choice;
  // Without a filter all stay.
  const stays = new Uint8Array(left).fill(keep ? 0 : 1);
  if (keep) {
    for (let row = left - 1; row > 0; row -= 1) {
      if (!stays[row] && keep(row)) stays[row] = 1;
      if (stays[row] && !(choice.quiet && tree.isQuiet(row))) stays[parent[row]] = 1;
    }
  }
  size[0] = extent[0] = 1;
  for (let row = 1; row < left; row += 1) {
    if (!stays[row] || !size[parent[row]] || (choice.quiet && tree.isQuiet(row))) continue;
    size[row] = 1;
    if (extent[parent[row]] && open[parent[row]]) extent[row] = 1;
  }
  for (let row = left - 1; row > 0; row -= 1) {
    size[parent[row]] += size[row];
    extent[parent[row]] += extent[row];
  }
  const rows = new Int32Array(extent[0]);
  place.set(inOrder(tree, extent, order, left));
  for (let row = 0; row < left; row += 1) if (extent[row]) rows[place[row]] = row;
  return { tree, rows, place, extent, size, open, order };
}

/** By row: its place when the tree is read, given how many nodes each branch counts for. */
export function inOrder(
  tree: TreeData,
  extent: Int32Array,
  order: ArrayLike<number> | null,
  count = extent.length,
): Int32Array {
  const { parent, depth } = tree;
  const place = new Int32Array(count).fill(-1);
  const next = new Int32Array(count);
  place[0] = 0;
  next[0] = 1;
  const put = (row: number) => {
    if (!extent[row]) return;
    place[row] = next[parent[row]];
    next[parent[row]] += extent[row];
    next[row] = place[row] + 1;
  };
  if (!order) {
    for (let row = 1; row < count; row += 1) put(row);
    return place;
  }
  const rows: number[] = [];
  for (let row = 1; row < count; row += 1) if (extent[row]) rows.push(row);
  // Parents before what is below them, and of those the largest first.
  rows.sort((one, other) => depth[one] - depth[other] || falling(order, one, other));
  rows.forEach(put);
  return place;
}

/** Compares two rows: the larger first, what is no number last, equal ones as they are. */
function falling(order: ArrayLike<number>, one: number, other: number): number {
  const [a, b] = [order[one], order[other]];
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return one - other;
  return Number.isNaN(a) || a < b ? 1 : -1;
}

/** Rows of the children that trim and filter leave, in the order in which they are read. */
export function childrenOf({ tree, size, order }: Shown, row: number): number[] {
  const rows: number[] = [];
  const { firstChild, nextSibling } = tree;
  for (let child = firstChild[row]; child; child = nextSibling[child]) {
    if (size[child]) rows.push(child);
  }
  return order ? rows.sort((one, other) => falling(order, one, other)) : rows;
}
