// SHARED with Python: what the kernel says, as signals. Panels read these and write none of them;
// they ask the kernel to change something, and it answers.
import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { restore } from "./buffers.ts";
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
  send(content: unknown): void;
}

export interface File {
  name: string;
  mime: string;
  data: Uint8Array;
}

/** Whether there is a kernel to ask: a saved copy has none, a lost one no longer answers. */
export type Contact = "live" | "lost" | "saved";

export interface Synced {
  subject: ReadonlySignal<SubjectInfo | null>;
  controls: ReadonlySignal<Control[]>;
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
  /** What the last change was refused for; null when it was taken. */
  refusal: Signal<string | null>;
  /** Ask the kernel; rejects with its words when it refuses. */
  ask(message: Ask): Promise<File | null>;
  /** Ask for new values of options; a refusal shows in `refusal`. */
  set(values: Values): void;
  /** Names of the files that can be exported, such as "tree.json". */
  files: ReadonlySignal<string[]>;
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

/** How long a kernel may take to answer before it counts as lost, in milliseconds. */
const PATIENCE = 10_000;

interface Question {
  resolve(file: File | null): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

export function connect(model: Model): Synced {
  const view = Math.random().toString(36).slice(2);
  const questions = new Map<string, Question>();
  const stops: (() => void)[] = [];
  let asked = 0;

  /** A signal that follows a trait. */
  function trait<T>(name: string, otherwise: T): Signal<T> {
    const read = () => (model.get(name) as T | undefined | null) ?? otherwise;
    const own = signal<T>(read());
    const follow = () => {
      own.value = read();
    };
    model.on(`change:${name}`, follow);
    stops.push(() => model.off(`change:${name}`, follow));
    return own;
  }

  const subject = trait<SubjectInfo | null>("_subject", null);
  const controls = trait<Control[]>("_controls", []);
  const values = trait<Values>("_values", {});
  const status = trait<Status>("_status", NO_STATUS);
  const files = trait<string[]>("_files", []);
  const jobs = trait<Record<string, Job>>("_jobs", {});
  const contact = signal<Contact>(model.get("_saved") ? "saved" : "live");
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
  model.on("change:_jobs", settle);
  stops.push(() => model.off("change:_jobs", settle));
  const refusal = signal<string | null>(null);

  const saved = model.get("_tree") as TreePayload | null | undefined;
  const tree = signal<TreeData | null>(saved?.parent ? TreeData.from(saved) : null);

  const wholeTree = () => {
    const whole = model.get("_tree") as TreePayload | null | undefined;
    if (!whole?.parent) tree.value = null;
    else tree.value = TreeData.from(whole);
  };
  model.on("change:_tree", wholeTree);
  stops.push(() => model.off("change:_tree", wholeTree));

  function append(rows: TreePayload): void {
    const known = tree.value?.run === rows.run ? tree.value : null;
    const settled = known?.settled ?? 0;
    if (rows.first > settled) {
      // Some rows were lost on the way.
      void ask({ type: "since", panel: "tree", run: rows.run, first: settled }).catch(() => {});
    } else {
      tree.value = known ? known.append(rows) : TreeData.from(rows);
    }
  }

  function hear(content: Tell & { buffers?: (string | number)[][] }, sent?: DataView[]): void {
    contact.value = "live";
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
    } else if (content.type === "reply") {
      const question = questions.get(content.rid);
      if (!question) return; // another view's
      questions.delete(content.rid);
      clearTimeout(question.timer);
      if (!content.ok) question.reject(new Error(content.error));
      else question.resolve(content.file ? fileOf(content.file) : null);
    }
  }
  const listener = hear as (...args: never[]) => void;
  model.on("msg:custom", listener);
  stops.push(() => model.off("msg:custom", listener));

  function ask(message: Ask): Promise<File | null> {
    if (contact.value === "saved") return askCopy(model, message);
    asked += 1;
    const rid = `${view}-${asked}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        // The question stands: a busy kernel answers late, and is then heard.
        if (contact.value === "live") contact.value = "lost";
      }, PATIENCE);
      questions.set(rid, { resolve, reject, timer });
      model.send({ ...message, rid });
    });
  }

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
      values.value = { ...values.value };
    });
  }

  // Once more a little later: JupyterLab gives a widget its way past running cells, a subshell of the
  // kernel, only after the first message, and the kernel takes that way from the next one on.
  let again: ReturnType<typeof setTimeout> | undefined;
  const hello = () => {
    ask({ type: "hello", run: tree.value?.run ?? null }).catch(() => {});
  };
  if (contact.value === "live") {
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
    isOld,
    refusal,
    files,
    ask,
    set,
    close() {
      for (const stop of stops) stop();
      clearTimeout(again);
      for (const question of questions.values()) clearTimeout(question.timer);
      questions.clear();
    },
  };
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
  return { name: message.file, mime: found.mime, data };
}

function fileOf(file: { name: string; mime: string; data: DataView }): File {
  return { name: file.name, mime: file.mime, data: bytesOf(file.data) };
}

/** The bytes of a view, copied: a view may begin anywhere in a larger buffer. */
function bytesOf(view: DataView): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).slice();
}
