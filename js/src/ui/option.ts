// One option while it is being changed: shown at once, sent now and then, settled by the kernel.
import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { Ask, Value } from "../state/protocol.ts";

/** At most one message in so many milliseconds, and the final value. */
const PAUSE = 150;
/** How long an answer may stay away before what the kernel last said is shown again. */
const SETTLED = 5000;

export interface Choice {
  /** What is shown: the reader's choice, or what the kernel says. */
  value: Value;
  change(value: Value): void;
}

export function useOption(name: string): Choice {
  const { synced } = useExplorer();
  const chosen = useSignal<{ value: Value } | null>(null);
  const timers = useRef<{ send?: Timer; settle?: Timer; waiting?: { value: Value } | null }>({});
  const own = useComputed(() => synced.values.value[name] ?? null);

  useEffect(
    () => () => {
      clearTimeout(timers.current.send);
      clearTimeout(timers.current.settle);
    },
    [],
  );

  useSignalEffect(() => {
    const told = synced.values.value[name] ?? null;
    const refused = synced.refusal.peek() !== null;
    // An answer to an earlier position of a moving slider is not the answer to this one.
    if (chosen.peek() && (refused || same(told, chosen.peek()?.value ?? null))) chosen.value = null;
  });

  // What nobody hears any more is not what holds.
  useSignalEffect(() => {
    if (synced.contact.value === "lost") chosen.value = null;
  });

  function send(value: Value) {
    timers.current.waiting = null;
    timers.current.send = setTimeout(() => {
      delete timers.current.send;
      const next = timers.current.waiting;
      if (next) send(next.value);
    }, PAUSE);
    synced.set({ [name]: value });
  }

  function settle() {
    // While the kernel is silent, what was asked for stands.
    if (synced.silence.peek()) timers.current.settle = setTimeout(settle, SETTLED);
    else if (synced.contact.peek() === "live") chosen.value = null;
  }

  function change(value: Value) {
    chosen.value = { value };
    if (synced.contact.peek() !== "live") return;
    clearTimeout(timers.current.settle);
    timers.current.settle = setTimeout(settle, SETTLED);
    if (timers.current.send !== undefined) timers.current.waiting = { value };
    else send(value);
  }

  return { value: chosen.value ? chosen.value.value : own.value, change };
}

type Timer = ReturnType<typeof setTimeout>;

/** What shows a failure in the widget, dismissible. */
export function useRefuse(): (error: Error) => void {
  const { refusal } = useExplorer().synced;
  return (error) => {
    refusal.value = error.message;
  };
}

/** Ask for something that answers with nothing but a refusal. */
export function useAsk(): (message: Ask) => void {
  const { synced } = useExplorer();
  const refuse = useRefuse();
  return (message) => void synced.ask(message).catch(refuse);
}

export function same(one: Value, other: Value): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
