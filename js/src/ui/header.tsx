// Which feature, of what, and how far it is.
import { useComputed } from "@preact/signals";
import { useExplorer } from "../state/context.ts";
import { type Contact, LOST, type Silence } from "../state/line.ts";
import type { Ask, State, Status, SubjectInfo } from "../state/protocol.ts";
import type { Synced } from "../state/synced.ts";
import { visible } from "../text.ts";
import { Entry } from "./controls.tsx";
import { directionText, useWayBack } from "./direction.tsx";
import { About, ExportMenu } from "./export_menu.tsx";
import { count, duration, numberIn, percent, plain } from "./format.ts";
import { Icon, type IconName } from "./icon.tsx";
import { useAsk, useOption } from "./option.ts";
import { SAEMenu } from "./sae_menu.tsx";

export interface Walk {
  /** The feature shown; null where the ghost is none. */
  feature: number | null;
  /** The direction that stands in for a feature, as text; empty: none. */
  direction: string;
  /** Number of features there are to walk through; 0 without an SAE or a kernel. */
  width: number;
  /** Go to a feature; of those there are. */
  go(feature: number): void;
  /** From a direction to the feature that was looked at last. */
  back(): void;
}

/** Going from feature to feature. */
export function useWalk(): Walk {
  const { synced } = useExplorer();
  const choice = useOption("feature");
  const direction = directionText(synced.values.value.direction);
  const width = synced.contact.value === "live" ? (synced.subject.value?.width ?? 0) : 0;
  const feature = typeof choice.value === "number" && !direction ? choice.value : null;
  const go = (to: number) => {
    if (!width) return;
    const wanted = Math.min(Math.max(to, 0), width - 1);
    if (direction) synced.set({ direction: null, feature: wanted });
    else choice.change(wanted);
  };
  return {
    feature,
    direction,
    width,
    go,
    back: useWayBack(),
  };
}

export function anyOf(width: number): number {
  return Math.floor(Math.random() * width);
}

export function Header({ walk, onEmbed }: { walk: Walk; onEmbed(): void }) {
  const { synced } = useExplorer();
  const subject = synced.subject.value;
  return (
    <section class="sae-header" aria-label="Feature and state">
      <div class="sae-bar">
        <Feature walk={walk} />
        <Featured walk={walk} subject={subject} />
        <SAEMenu />
        <Subject subject={subject} />
        <span class="sae-spring" />
        <Neuronpedia walk={walk} subject={subject} onEmbed={onEmbed} />
        <About />
        <ExportMenu />
      </div>
      <StatusBar />
    </section>
  );
}

function Feature({ walk }: { walk: Walk }) {
  const { feature, direction, width, go } = walk;
  const { values, tree, result } = useExplorer().synced;
  const still = width === 0;
  const at = feature ?? -1;
  // Of an SAE that was chosen since, which may have fewer.
  const beyond = !still && at >= width;
  const label = tree.value?.label ?? result("tokens").value?.label;
  return (
    <fieldset class="sae-feature" aria-label="Feature">
      {direction ? (
        <>
          <span class="sae-direction" title={visible(direction)}>
            <span class="sae-unseen">Direction </span>
            <bdi>{visible(direction)}</bdi>
          </span>
          <button
            type="button"
            class="sae-icon-button"
            aria-label="Back to a feature"
            title="Back to the feature before; or type a number"
            disabled={still}
            onClick={walk.back}
          >
            <Icon name="reset" />
          </button>
        </>
      ) : (
        <span class="sae-feature-word">
          {feature === null && values.value.feature === null && label ? visible(label) : "Feature"}
        </span>
      )}
      <button
        type="button"
        class="sae-icon-button"
        aria-label="Previous feature"
        aria-keyshortcuts="["
        title="Previous feature  ["
        disabled={still}
        {...pressable(at > 0, () => go(at - 1))}
      >
        <Icon name="previous" />
      </button>
      <Entry
        class="sae-number sae-jump"
        inputMode="numeric"
        label="Feature to show"
        text={feature === null ? "" : String(feature)}
        placeholder="number"
        complaint={beyond ? missing(at, width) : ""}
        disabled={still}
        onStep={(direction) => go(at + direction)}
        onCommit={(text) => {
          const wanted = numberIn(text);
          if (!Number.isInteger(wanted) || wanted < 0 || wanted >= width) {
            return missing(text, width);
          }
          go(wanted);
          return null;
        }}
      />
      <button
        type="button"
        class="sae-icon-button"
        aria-label="Next feature"
        aria-keyshortcuts="]"
        title="Next feature  ]"
        disabled={still}
        {...pressable(at < width - 1, () => go(at + 1))}
      >
        <Icon name="next" />
      </button>
      <button
        type="button"
        class="sae-icon-button"
        aria-label="Random feature"
        title="Random feature"
        disabled={still}
        onClick={() => go(anyOf(width))}
      >
        <Icon name="random" />
      </button>
    </fieldset>
  );
}

function missing(feature: number | string, width: number): string {
  return `There is no feature ${feature}: they are numbered 0 to ${count(width - 1)}.`;
}

function Featured({ walk, subject }: { walk: Walk; subject: SubjectInfo | null }) {
  if (!subject?.featured.length) return null;
  const known = subject.featured.some(({ feature }) => feature === walk.feature);
  return (
    <select
      class="sae-select"
      aria-label="Featured features"
      value={known ? String(walk.feature) : ""}
      disabled={walk.width === 0}
      onChange={(event) => walk.go(Number(event.currentTarget.value))}
    >
      <option value="" disabled>
        Featured
      </option>
      {subject.featured.map(({ feature, label }) => (
        <option key={feature} value={String(feature)}>
          {`${feature}  ${visible(label)}`}
        </option>
      ))}
    </select>
  );
}

/** The model and the SAE in one line. */
function Subject({ subject }: { subject: SubjectInfo | null }) {
  if (!subject) return <span class="sae-subject" />;
  const { model, sae, layer, width, hook_name, device, dtype } = subject;
  const parts = [
    model,
    sae || "no SAE",
    layer === null ? "" : `layer ${layer}`,
    width ? `${count(width)} features` : "",
  ].filter(Boolean);
  return (
    <span class="sae-subject" title={visible([...parts, hook_name, dtype, device].join("\n"))}>
      {parts.map(visible).join(" · ")}
    </span>
  );
}

function Neuronpedia(props: { walk: Walk; subject: SubjectInfo | null; onEmbed(): void }) {
  const { contact } = useExplorer().synced;
  const address = addressOf(props.subject, props.walk.feature);
  if (!address) return null;
  return (
    <>
      <a class="sae-link" href={address} target="_blank" rel="noopener noreferrer">
        Neuronpedia
        <Icon name="outside" />
      </a>
      {contact.value !== "saved" && (
        <button
          type="button"
          title="Load Neuronpedia's page of the feature here: this asks neuronpedia.org"
          onClick={props.onEmbed}
        >
          Embed
        </button>
      )}
    </>
  );
}

export function addressOf(subject: SubjectInfo | null, feature: number | null): string | null {
  return subject?.neuronpedia && feature !== null ? `${subject.neuronpedia}${feature}` : null;
}

const WORDS: Record<State | "waiting" | Exclude<Contact, "live">, [IconName, string]> = {
  loading: ["loading", "loading"],
  growing: ["growing", "growing"],
  done: ["done", "done"],
  partial: ["partial", "partial"],
  error: ["error", "error"],
  saved: ["saved", "saved copy"],
  waiting: ["loading", "waiting"],
  lost: ["lost", "no kernel"],
};

/** How things stand in a word: work that goes on is told by the kernel, though it answers nothing. */
function kindOf(synced: Synced): keyof typeof WORDS {
  const { state } = synced.status.value;
  if (synced.contact.value !== "live") return synced.contact.value;
  const silent = synced.silence.value;
  return silent && !(silent.alive && isBusy(state)) ? "waiting" : state;
}

function isBusy(state: State): boolean {
  return state === "loading" || state === "growing";
}

function silenceInWords({ seconds, alive }: Silence, shown: string): string {
  const why = alive
    ? "it works, and answers when its cell ends"
    : "it is busy with another cell, or gone";
  const still = shown ? `; what you see is ${shown}` : "";
  return `The kernel has not answered for ${seconds} s: ${why}${still}.`;
}

/** What the tree is about, where that is not what the field says, which was asked for since. */
function shownInstead({ tree, values }: Synced): string {
  if (!tree.value) return "";
  const { label, request } = tree.value;
  const { feature, direction } = values.value;
  const same =
    (request.feature ?? null) === (feature ?? null) &&
    directionText(request.direction) === directionText(direction);
  return same ? "" : label;
}

/** What a press of a button asks for, by the state it helps in. */
function actionOf(status: Status): { text: string; ask: Ask; key?: string } | null {
  if (isBusy(status.state)) {
    return { text: "Cancel", ask: { type: "cancel" }, key: "Escape" };
  }
  if (status.state === "error") return { text: "Try again", ask: { type: "run" } };
  if (status.state === "partial" && status.resumable) {
    return { text: "Grow on", ask: { type: "resume" } };
  }
  return null;
}

function StatusBar() {
  const { synced } = useExplorer();
  const ask = useAsk();
  const status = synced.status.value;
  const live = synced.contact.value === "live";
  const kind = kindOf(synced);
  const [icon, word] = WORDS[kind];
  const action = live ? actionOf(status) : null;
  // Spoken when the state changes, not with every figure.
  const spoken = useComputed(() => {
    const kind = kindOf(synced);
    return kind === "waiting" ? "waiting for the kernel" : WORDS[kind][1];
  });
  return (
    <div class="sae-status">
      <span class="sae-chip" data-state={kind}>
        <Icon name={icon} />
        {word}
      </span>
      <Figures status={status} growing={kind === "growing"} />
      <Notice />
      <button
        type="button"
        class="sae-action"
        data-shown={action !== null || undefined}
        aria-keyshortcuts={action?.key}
        title={action?.key ? `${action.text}  Esc` : action?.text}
        {...pressable(action !== null, () => action && ask(action.ask))}
      >
        {action?.text ?? "Cancel"}
      </button>
      <Progress busy={live && isBusy(status.state)} progress={status.progress} />
      <span class="sae-unseen" role="status">
        {spoken.value}
      </span>
    </div>
  );
}

/** `growing`: now, with a kernel that says so. */
function Figures({ status, growing }: { status: Status; growing: boolean }) {
  const { covered, threshold, seconds, run, state, text } = status;
  const tree = useExplorer().synced.tree.value;
  const own = tree?.run === run ? tree : null;
  // Of rows that were lost on the way the status knows before the tree does.
  const nodes = state === "growing" && own ? own.count : status.nodes;
  const known = nodes > 0;
  // Of a tree that is whole, whatever else is being loaded or grown by now.
  const whole = own ? own.status !== "partial" : state === "done";
  // A text of its own tells of other work than growth, such as measuring the lift.
  const [amount, word, help] =
    growing && !whole && seconds > 0 && text === state
      ? [count(nodes / seconds), "nodes/s", "Nodes grown in a second"]
      : [duration(seconds), whole ? "to grow" : "so far", "Seconds that the tree has grown"];
  return (
    <div class="sae-figures" data-known={known || undefined}>
      <div title={`Nodes of the tree. It is complete down to P = ${plain(threshold)}.`}>
        <b>{known ? count(nodes) : "–"}</b>
        <span>{nodes === 1 ? "node" : "nodes"}</span>
      </div>
      <div title="Probability that an answer begins with a path to a tip of this tree; the rest of the answers leaves it.">
        <b>{known ? percent(covered) : "–"}</b>
        <span>covered</span>
      </div>
      <div title={help}>
        <b>{known ? amount : "–"}</b>
        <span>{word}</span>
      </div>
    </div>
  );
}

/** A button that may have nothing to do: disabled outright it would lose the focus. */
function pressable(able: boolean, press: () => void) {
  return { "aria-disabled": !able || undefined, onClick: () => able && press() };
}

/** What is going on in a line; what went wrong, over the tree if it is long. */
function Notice() {
  const { synced, root } = useExplorer();
  const refusal = synced.refusal.value;
  const { error, state, text } = synced.status.value;
  const silence = synced.silence.value;
  const wrong = refusal ?? (synced.contact.value === "lost" ? LOST : error);
  // Where there is nothing below, it may take the room that it needs.
  const whole = wrong !== null && !synced.tree.value;
  const label = synced.tree.value?.label ?? "";
  // A tree that is more than a feature's, such as a steered one, says so where the controls are folded.
  const about = text !== state ? text : label.includes(", ") ? label : "";
  const said = silence ? silenceInWords(silence, shownInstead(synced)) : about;
  return (
    <div class="sae-notice" data-whole={whole || undefined}>
      {!wrong && said && <span title={visible(said)}>{visible(said)}</span>}
      {/* There before it speaks, or nobody would hear it. */}
      <div
        role="alert"
        class="sae-alert"
        data-shown={wrong !== null || undefined}
        // Opens to its whole length when it has the focus.
        tabIndex={wrong !== null ? 0 : undefined}
      >
        {wrong !== null && (
          <>
            <Icon name="error" />
            <span>{visible(wrong)}</span>
          </>
        )}
        {refusal !== null && (
          <button
            type="button"
            class="sae-icon-button"
            aria-label="Dismiss"
            title="Dismiss"
            onClick={() => {
              synced.refusal.value = null;
              // It vanishes: the focus goes to what was refused.
              const field = root.querySelector<HTMLElement>("[aria-invalid=true], .sae-jump");
              field?.focus();
            }}
          >
            <Icon name="close" />
          </button>
        )}
      </div>
    </div>
  );
}

function Progress({ busy, progress }: { busy: boolean; progress: number | null }) {
  // Its place is kept when there is none.
  if (!busy) return <div class="sae-progress" />;
  const known = progress !== null;
  return (
    <div
      class="sae-progress"
      role="progressbar"
      aria-label="Progress"
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={known ? Math.round(100 * progress) : undefined}
      data-known={known || undefined}
      style={{ "--sae-at": known ? progress : 0 }}
    >
      <span />
    </div>
  );
}
