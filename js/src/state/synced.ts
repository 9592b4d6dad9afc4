// SHARED with Python: what the kernel says, as signals. Panels read these and write none of them;
// they ask the kernel to change something, and it answers.
import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { restore } from "./buffers.ts";
import { type Contact, type Line, LOST, openLine, type Silence } from "./line.ts";
import type {
  Ask,
  Control,
  Job,
  Payload,
  Status,
  SubjectInfo,
  Tell,
  TreePayload,
  Values,
} from "./protocol.ts";
import { TreeData } from "./tree.ts";

/** The part of anywidget's model that is used; the host of an exported page has the same. */
export interface Model {
  get(name: string): unknown;
  on(event: string, listener: (...args: never[]) => void): void;
  off(event: string, listener: (...args: never[]) => void): void;
  /** Where the host has a kernel of Jupyter's, it calls back with what becomes of the message. */
  send(content: unknown, callbacks?: Callbacks): void;
}

/** To be called by a host that only says that it has sent the message. */
export interface Callbacks {
  (): void;
  iopub: { status(message: { content: { execution_state: string } }): void };
}

export interface File {
  name: string;
  mime: string;
  data: Uint8Array;
}

export interface Synced {
  subject: ReadonlySignal<SubjectInfo | null>;
  controls: ReadonlySignal<Control[]>;
  /** The options as the kernel has them, with what it was asked for and has not answered yet. */
  values: ReadonlySignal<Values>;
  status: ReadonlySignal<Status>;
  tree: ReadonlySignal<TreeData | null>;
  /** What an analysis has found, by its name in Python, and while it runs what it has so far. The
   * tree alone grows, and is `tree`. */
  result<P extends Payload>(name: string): ReadonlySignal<P | null>;
  /** How an analysis stands that runs on request, by its name in Python. */
  job(name: string): Job;
  /** Whether what an analysis shows is of a run before the one that was asked for last. */
  isOld(name: string): boolean;
  contact: ReadonlySignal<Contact>;
  /** For how long the kernel has answered nothing; null while it does. */
  silence: ReadonlySignal<Silence | null>;
  /** What the last change was refused for; null when it was taken. */
  refusal: Signal<string | null>;
  /** Ask the kernel; rejects with its words when it refuses. */
  ask(message: Ask): Promise<File | null>;
  /** Ask for new values of options; a refusal shows in `refusal`. */
  set(values: Values): void;
  /** Names of the files that can be exported, such as "tree.json". */
  files: ReadonlySignal<string[]>;
  /** Take note that the host has no kernel for it. */
  cut(): void;
  /** End everything: listeners, timers, questions. */
  close(): void;
}

const NO_STATUS: Status = {
  state: "loading",
  text: "starting",
  progress: null,
  run: 0,
  nodes: 0,
  covered: 0,
  threshold: 1,
  seconds: 0,
  resumable: false,
  error: null,
};

const NO_JOB: Job = { state: "idle", text: "", progress: null, error: null };

/** When hello is said again, in milliseconds. */
const LATER = 1000;

/** How long a kernel at work may say nothing before it is asked how it stands, in milliseconds. */
const QUIET = 10_000;

/** Of a saved copy, which has nobody to ask. */
const CUT: Pick<Line<File>, "contact" | "silence" | "pending"> = {
  contact: signal<Contact>("saved"),
  silence: signal(null),
  pending: signal({}),
};

export function connect(model: Model): Synced {
  const stops: (() => void)[] = [];
  function on(event: string, listener: (...args: never[]) => void): void {
    model.on(event, listener);
    stops.push(() => model.off(event, listener));
  }
  const line = model.get("_saved") ? null : openLine(send, hello, lacks, read);
  const { contact, silence, pending } = line ?? CUT;

  function send(message: unknown, idle: () => void): void {
    const status = (told: { content: { execution_state: string } }) => {
      if (told.content.execution_state === "idle") idle();
    };
    model.send(
      message,
      Object.assign(() => {}, { iopub: { status } }),
    );
  }

  /** A signal that follows a trait. */
  function trait<T>(name: string, otherwise: T): Signal<T> {
    const read = () => (model.get(name) as T | undefined | null) ?? otherwise;
    const own = signal<T>(read());
    on(`change:${name}`, () => {
      line?.heard();
      own.value = read();
    });
    return own;
  }

  const subject = trait<SubjectInfo | null>("_subject", null);
  const controls = trait<Control[]>("_controls", []);
  const held = trait<Values>("_values", {});
  const values = computed(() => ({ ...held.value, ...pending.value }));
  const status = trait<Status>("_status", NO_STATUS);
  const written = trait<string[]>("_files", []);
  // The kernel writes them: without it there are none.
  const files = computed(() => (contact.value === "lost" ? [] : written.value));
  const jobs = trait<Record<string, Job>>("_jobs", {});
  const job = (name: string) => jobs.value[name] ?? NO_JOB;
  const results = new Map<string, ReadonlySignal<Payload | null>>();
  /** What running analyses have so far, by name. */
  const partials = signal<Record<string, Payload>>({});
  const settle = () => {
    // What was found so far is of no use once a run has ended: the next one begins anew.
    const running = Object.entries(partials.peek()).filter(
      ([name]) => job(name).state === "running",
    );
    partials.value = Object.fromEntries(running);
  };
  on("change:_jobs", settle);
  const refusal = signal<string | null>(null);

  const saved = model.get("_tree") as TreePayload | null | undefined;
  const tree = signal<TreeData | null>(saved?.parent ? TreeData.from(saved) : null);

  const wholeTree = () => {
    const whole = model.get("_tree") as TreePayload | null | undefined;
    if (!whole?.parent) tree.value = null;
    else tree.value = TreeData.from(whole);
  };
  on("change:_tree", wholeTree);

  /** The gap in the rows that was asked about last. */
  let missing = "";
  function append(rows: TreePayload): void {
    const known = tree.value?.run === rows.run ? tree.value : null;
    const settled = known?.settled ?? 0;
    if (rows.first > settled) {
      // Some rows were lost on the way.
      const gap = `${rows.run} ${settled}`;
      if (gap === missing) return;
      missing = gap;
      void ask({ type: "since", panel: "tree", run: rows.run, first: settled })
        .catch(() => {})
        .finally(() => {
          missing = "";
        });
    } else {
      tree.value = known ? known.append(rows) : TreeData.from(rows);
    }
  }

  function hear(content: Tell & { buffers?: (string | number)[][] }, sent?: DataView[]): void {
    line?.heard();
    restore(content, content.buffers ?? [], sent ?? []);
    if (content.type === "status") {
      status.value = content.status;
    } else if (content.type === "append") {
      batch(() => {
        status.value = content.status;
        append(content.rows);
      });
    } else if (content.type === "partial") {
      partials.value = { ...partials.value, [content.panel]: content.payload };
    } else if (content.type === "doing") {
      line?.atIt(content.rid);
    } else if (content.type === "reply") {
      line?.answered(content);
      if (contact.peek() === "live" && refusal.peek() === LOST) refusal.value = null;
    }
  }
  on("msg:custom", hear as (...args: never[]) => void);
  // Of ipywidgets: its connection is cut, as when the kernel is restarted from a menu.
  on("comm_live_update", () => line?.broken());

  function read({ file }: Extract<Tell, { type: "reply"; ok: true }>): File | null {
    return file ? fileOf(file) : null;
  }

  const ask = (message: Ask) => (line ? line.ask(message) : askCopy(model, message));

  /** The trait of a result; while it runs, what came since it began. */
  function resultOf(name: string): ReadonlySignal<Payload | null> {
    const whole = trait<Payload | null>(`_${name}`, null);
    return computed(() => {
      const running = job(name).state === "running";
      return (running && partials.value[name]) || whole.value;
    });
  }

  function isOld(name: string): boolean {
    const { state } = job(name);
    const before = state === "running" && !partials.value[name];
    return before || state === "stale" || state === "error";
  }

  function set(changed: Values): void {
    refusal.value = null;
    ask({ type: "set", values: changed }).catch((error: Error) => {
      refusal.value = error.message;
      // The controls go back to what holds.
      held.value = { ...held.value };
    });
  }

  function hello(): void {
    const number = (name: string) => (model.get(`_${name}`) as Payload | null)?.number ?? null;
    const known = Object.fromEntries(
      ["tree", ...results.keys()].map((name) => [name, number(name)]),
    );
    ask({ type: "hello", run: tree.peek()?.run ?? null, known }).catch(() => {});
  }

  /** The status whose tree was found wanting last. */
  let wanting: Status | null = null;

  function lacks(quiet: number): boolean {
    const { state, nodes } = status.peek();
    const works = Object.values(jobs.peek()).some((one) => one.state === "running");
    if (works || state === "loading" || state === "growing") return quiet > QUIET;
    if (nodes === (tree.peek()?.count ?? 0) || wanting === status.peek()) return false;
    wanting = status.peek();
    return true;
  }

  // Once more a little later: JupyterLab gives a widget its way past running cells, a subshell of the
  // kernel, only after the first message, and the kernel takes that way from the next one on.
  let again: ReturnType<typeof setTimeout> | undefined;
  if (line) {
    hello();
    again = setTimeout(hello, LATER);
  }

  return {
    subject,
    controls,
    values,
    status,
    tree,
    result<P extends Payload>(name: string) {
      const known = results.get(name) ?? resultOf(name);
      results.set(name, known);
      return known as ReadonlySignal<P | null>;
    },
    job,
    contact,
    silence,
    isOld,
    refusal,
    files,
    ask,
    set,
    cut: () => line?.broken(),
    close() {
      for (const stop of stops) stop();
      clearTimeout(again);
      line?.close();
    },
  };
}

/** The name that a file is saved by, as the kernel gives it. */
export function savedAs(file: string, about: Pick<Payload, "stem"> | null): string {
  return about ? `${about.stem}-${file}` : file;
}

/** Answer from what an exported page carries with it. */
async function askCopy(model: Model, message: Ask): Promise<File | null> {
  if (message.type !== "export")
    throw new Error("This is a saved copy: nothing can be recomputed.");
  const files = model.get("_attachments") as Record<string, { mime: string; data: DataView }>;
  const found = files?.[message.file];
  if (!found) throw new Error(`This copy does not carry ${message.file}.`);
  const packed = new Blob([bytesOf(found.data)]).stream();
  const plain = packed.pipeThrough(new DecompressionStream("gzip"));
  const data = new Uint8Array(await new Response(plain).arrayBuffer());
  const [result] = message.file.split(".");
  const about = model.get(`_${result}`) as Payload;
  return { name: savedAs(message.file, about), mime: found.mime, data };
}

function fileOf(file: { name: string; mime: string; data: DataView }): File {
  return { name: file.name, mime: file.mime, data: bytesOf(file.data) };
}

/** The bytes of a view, copied: a view may begin anywhere in a larger buffer. */
function bytesOf(view: DataView): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).slice();
}
