// The line to the kernel. Every question has a number (`rid`) and is asked until it is answered; the
// kernel does what is asked under a number once. How long it has been silent is a signal.
//
// No host says reliably what becomes of a kernel, so that is read off the answers: a busy kernel
// answers late, one that was restarted has done with a message and not answered it.
import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Ask, Tell, Values } from "./protocol.ts";

/** Whether there is a kernel to ask: a saved copy has none, a lost one has ended. */
export type Contact = "live" | "lost" | "saved";

/** What is said where no kernel answers any more, with what to do. */
export const LOST =
  "No kernel answers: this is its last result. It may have been restarted or have ended: run the cell again.";

type Reply = Extract<Tell, { type: "reply" }>;
type Granted = Extract<Reply, { ok: true }>;

/** A kernel that answers nothing for as long. */
export interface Silence {
  seconds: number;
  /** Whether it tells of its work all the same, so that it is there, and a cell is in the way. */
  alive: boolean;
}

/** How long before a silence is told, in milliseconds. */
const PATIENCE = 3000;
/** How long before nothing more is sent that changes something. */
const HOLD = 1000;
/** How long before a question is asked again the first time; then twice as long, up to … */
const AGAIN = 2000;
const SELDOM = 60_000;
/** How often the line is looked at. If it was not for longer than … */
const TICK = 1000;
/** … the page was asleep, and messages may be lost. */
const ASLEEP = 5000;
/** How long an answer may come after the kernel has said that it has done with the question. */
const GRACE = 1000;
/** How often a question may be done with unanswered before the kernel counts as another one. */
const UNANSWERED = 2;

/** What is asked in order, and done once. */
const CHANGING: Ask["type"][] = ["set", "select", "reset", "run", "resume"];
/** What takes the options as they are when it is asked: those before it are not put off behind it. */
const TAKING: Ask["type"][] = ["run", "resume", "select", "reset"];

interface Question<Answer> {
  rid: string;
  message: Ask;
  resolve(answer: Answer | null): void;
  reject(error: Error): void;
  /** When it was asked. */
  since: number;
  /** When it was sent first; null: it is held back. */
  first: number | null;
  /** When it was sent last. */
  sent: number;
  /** How long it waits before it is sent again. */
  pause: number;
  /** When the kernel said that it had done with it; null: it has not. */
  idle: number | null;
  unanswered: number;
}

export interface Line<Answer> {
  contact: ReadonlySignal<Contact>;
  /** Null while the kernel answers. */
  silence: ReadonlySignal<Silence | null>;
  /** The changes that were asked for while the kernel is silent. */
  pending: ReadonlySignal<Values>;
  /** Null comes back for what was no longer wanted before it was answered. */
  ask(message: Ask): Promise<Answer | null>;
  /** Take note that the kernel said something. */
  heard(): void;
  /** Take an answer; it may be another view's. */
  answered(reply: Reply): void;
  /** Take note that a question is being dealt with, so that its answer comes later. */
  atIt(rid: string): void;
  /** Take note that the host has lost its kernel. */
  broken(): void;
  close(): void;
}

/**
 * @param send Sends a message, and tells when the kernel has done with it, where the host knows.
 * @param hello Says where this view stands, which the kernel answers with what is lacking.
 * @param lacks Whether something is lacking, after so many milliseconds without a word.
 * @param read What there is in an answer.
 */
export function openLine<Answer>(
  send: (message: unknown, idle: () => void) => void,
  hello: () => void,
  lacks: (quiet: number) => boolean,
  read: (reply: Granted) => Answer | null,
): Line<Answer> {
  const view = Math.random().toString(36).slice(2);
  /** In the order in which they were asked. */
  const open = new Map<string, Question<Answer>>();
  const contact: Signal<Contact> = signal("live");
  const silence = signal<Silence | null>(null);
  const pending = signal<Values>({});
  let asked = 0;
  let heardAt = Date.now();
  let answeredAt = 0;
  let probed = 0;
  let ticked = Date.now();
  let slept = false;

  function ask(message: Ask): Promise<Answer | null> {
    if (contact.peek() !== "live" && message.type !== "hello") return Promise.reject(lost());
    drop(message);
    return new Promise((resolve, reject) => {
      enter({ message, resolve, reject, since: Date.now() });
      review();
      release();
    });
  }

  /** Give a question a number, under which it is still to be sent. */
  function enter(
    question: Pick<Question<Answer>, "message" | "resolve" | "reject" | "since">,
  ): void {
    asked += 1;
    const rid = `${view}-${asked}`;
    open.set(rid, {
      ...question,
      rid,
      first: null,
      sent: 0,
      pause: AGAIN,
      idle: null,
      unanswered: 0,
    });
  }

  /** Forget what was to be asked, where what is asked now stands in its place. */
  function drop(message: Ask): void {
    let taken = false;
    for (const question of [...open.values()].reverse()) {
      const waits = question.first === null && !(taken && message.type === "set");
      // What was sent may be lost, and would begin after it was cancelled.
      if ((waits || message.type === "cancel") && replaces(message, question.message)) {
        forget(question);
      }
      taken ||= TAKING.includes(question.message.type);
    }
  }

  function forget(question: Question<Answer>): void {
    open.delete(question.rid);
    question.resolve(null);
  }

  function put(question: Question<Answer>): void {
    question.sent = Date.now();
    question.first ??= question.sent;
    question.idle = null;
    try {
      send({ ...question.message, rid: question.rid }, () => {
        question.idle = Date.now();
      });
    } catch {
      broken();
    }
  }

  /** Whether the kernel is silent about a change: what is sent then cannot be taken back. */
  function stuck(): boolean {
    const now = Date.now();
    return [...open.values()].some(
      ({ message, first }) => first !== null && changes(message) && now - quietSince(first) > HOLD,
    );
  }

  /** Since when there was no answer, to something that was sent first at a time. */
  function quietSince(first: number): number {
    return Math.max(first, answeredAt);
  }

  /** Send what was not sent yet; changes only to a kernel that hears them. */
  function release(): void {
    const held = stuck();
    for (const question of open.values()) {
      if (question.first === null && !(held && changes(question.message))) put(question);
    }
  }

  function answered(reply: Reply): void {
    const question = open.get(reply.rid);
    if (!question) return;
    contact.value = "live";
    const now = Date.now();
    answeredAt = now;
    if (reply.ok) overtake(question);
    open.delete(reply.rid);
    const gone = reply.ok && reply.gone;
    if (gone) enter(question);
    // It hears us: those before have been lost, or wait behind a cell that this one went past.
    for (const other of open.values()) {
      if (other.first !== null && now - other.sent > HOLD) put(other);
    }
    release();
    review();
    if (gone) return;
    if (reply.ok) question.resolve(read(reply));
    else question.reject(new Error(reply.error));
  }

  /** Forget what was asked before a change that was made, where that stands in its place. */
  function overtake(made: Question<Answer>): void {
    for (const question of open.values()) {
      if (question === made) return;
      if (replaces(made.message, question.message)) forget(question);
    }
  }

  function review(): void {
    const now = Date.now();
    const questions = [...open.values()];
    const first = questions.find((question) => question.first !== null)?.first;
    const from = first && contact.peek() === "live" ? quietSince(first) : now;
    silence.value =
      now - from >= PATIENCE
        ? { seconds: Math.floor((now - from) / 1000), alive: heardAt > from + HOLD }
        : null;
    // Until each is answered: what the kernel has meanwhile is not to flash up.
    const late = questions.some(({ message, since }) => changes(message) && now - since > HOLD);
    const asked = questions.map(({ message }) =>
      message.type === "set" && late ? message.values : {},
    );
    const changed: Values = Object.assign({}, ...asked);
    // Nothing is drawn anew where nothing is.
    if (JSON.stringify(changed) !== JSON.stringify(pending.peek())) pending.value = changed;
  }

  function broken(): void {
    contact.value = "lost";
    const questions = [...open.values()];
    open.clear();
    review();
    for (const question of questions) question.reject(lost());
  }

  function tick(): void {
    const now = Date.now();
    if (now - ticked > ASLEEP) {
      slept = true;
      // The kernel's silence was the page's.
      for (const question of open.values()) {
        if (question.first !== null) question.first += now - ticked;
      }
      heardAt = now;
    }
    ticked = now;
    // A page out of sight sleeps on and off.
    if (slept && document.visibilityState === "visible") {
      slept = false;
      hello();
    }
    if (contact.peek() !== "live") return;
    for (const question of open.values()) {
      if (question.first === null) continue;
      if (question.idle !== null && now - question.idle >= GRACE) {
        question.unanswered += 1;
        if (question.unanswered >= UNANSWERED) {
          broken();
          return;
        }
        put(question);
      } else if (now - question.sent >= question.pause) {
        question.pause = Math.min(2 * question.pause, SELDOM);
        put(question);
      }
    }
    if (!open.size && lacks(now - heardAt)) hello();
    review();
  }
  const ticking = setInterval(tick, TICK);

  return {
    contact,
    silence,
    pending,
    ask,
    answered,
    atIt(rid) {
      const question = open.get(rid);
      if (question) Object.assign(question, { idle: null, unanswered: 0 });
    },
    broken,
    heard() {
      heardAt = Date.now();
      // Whether it is the one of before, an answer will say.
      if (contact.peek() !== "lost" || heardAt - probed < ASLEEP) return;
      probed = heardAt;
      open.clear();
      hello();
    },
    close() {
      clearInterval(ticking);
      open.clear();
    },
  };
}

function changes({ type }: Ask): boolean {
  return CHANGING.includes(type);
}

function lost(): Error {
  return new Error(LOST);
}

/** Whether a message makes one before it needless. */
function replaces(message: Ask, before: Ask): boolean {
  const panel = (ask: Ask) => ("panel" in ask ? ask.panel : undefined);
  if (message.type === "cancel") {
    const begins = before.type === "run" || before.type === "resume";
    return begins && panel(message) === panel(before);
  }
  if (message.type === "set" && before.type === "set") {
    return Object.keys(before.values).every((name) => name in message.values);
  }
  return changes(message) && message.type === before.type && panel(message) === panel(before);
}
