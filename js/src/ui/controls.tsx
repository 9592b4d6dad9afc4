// Controls for the options of requests. What they offer, say and allow is the schema's; here is
// only how an option of each kind is shown.
import { type Signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import { LOST } from "../state/line.ts";
import type { Control, Value } from "../state/protocol.ts";
import { visibleToken } from "../text.ts";
import { Chips } from "./chips.tsx";
import { DIRECTION, DirectionField, SecondDirection, SourceDirection } from "./direction.tsx";
import { count, numberIn, plain, UNITS } from "./format.ts";
import { Icon } from "./icon.tsx";
import { Interventions } from "./interventions.tsx";
import { type Choice, same, useAsk, useOption, useRefuse } from "./option.ts";
import { Slider, scaleOf } from "./slider.tsx";

const GHOST = "{ghost}";
const AUTO = "auto";
/** Options with a control of their own make. */
const SPECIAL: Record<string, (props: FieldProps) => ComponentChildren> = {
  direction: SourceDirection,
  weights: Weights,
  scale: Scale,
  pca: Components,
  prompt: Prompt,
  second: SecondDirection,
  action: Action,
};

export interface FieldProps {
  control: Control;
  choice: Choice;
  /** What null means for this subject; undefined while there is none, null where it means nothing. */
  effective: Value | undefined;
  disabled: boolean;
  /** Id of the element that describes the option. */
  help: string;
}

/** An id for one element: several widgets may live in one page. */
export function useUnique(): string {
  return useState(() => `sae-${Math.random().toString(36).slice(2)}`)[0];
}

/** Labels that say more than the name does; what explains them then gives the name as well. */
const LABELS: Record<string, string> = {
  at: "Where",
  dose_tokens: "Text length",
  doses: "Strengths",
  limit: "List length",
  loop_seed: "Seed",
  max_depth: "Depth limit",
  max_nodes: "Node limit",
  min_length: "Least length",
  pca: "PCA",
  second: "Second direction",
  skip_bos: "Skip BOS",
  top_k: "Tokens per node",
  watched: "Features read",
};

/** Name of an option as a label: that of the trait in words, or one that says more. */
export function labelOf(name: string): string {
  return LABELS[name] ?? inWordsOf(name);
}

function inWordsOf(name: string): string {
  return name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

/** What an option does, its unit, and what it is called in Python where its label says otherwise. */
export function helpOf({ name, help, unit }: Control): string {
  const known = labelOf(name) === inWordsOf(name) ? "" : ` In Python: ${name}.`;
  return `${help}${unit && ` In ${unit}.`}${known}`;
}

/** The controls of the main column: all groups that make the ghost and its tree. */
export function Controls() {
  const { synced } = useExplorer();
  const explained = useSignal(false);
  const live = synced.contact.value === "live";
  const ask = useAsk();
  return (
    <div class="sae-controls" data-explained={explained.value || undefined}>
      <Reason />
      <ControlGroup
        group="vector"
        title="Ghost"
        first={"direction" in synced.values.value ? [DIRECTION] : []}
      />
      <ControlGroup group="interventions" title="Interventions" />
      <ControlGroup group="tree" title="Tree" />
      <div class="sae-controls-foot">
        <button type="button" disabled={!live} onClick={() => ask({ type: "reset" })}>
          Reset to defaults
        </button>
        <Explain shown={explained} />
      </div>
    </div>
  );
}

/** Shows what controls do, to be read by all: what stands around them has `data-explained`. */
export function Explain({ shown }: { shown: Signal<boolean> }) {
  return (
    <button
      type="button"
      aria-pressed={shown.value}
      title="Explain every control"
      onClick={() => {
        shown.value = !shown.value;
      }}
    >
      <Icon name="info" /> Explain
    </button>
  );
}

/** Why controls do nothing, where they do not. */
function Reason() {
  const contact = useExplorer().synced.contact.value;
  if (contact === "live") return null;
  return (
    <p class="sae-reason">
      {contact === "saved"
        ? "This is a saved copy. To change something, run again what made it."
        : LOST}
    </p>
  );
}

/** All options of a group under its title. */
export function ControlGroup(props: { group: string; title: string; first?: Control[] }) {
  const { group, title, first = [] } = props;
  const own = useExplorer().synced.controls.value.filter((entry) => entry.group === group);
  const controls = [...first, ...own];
  if (!controls.length) return null;
  return (
    <fieldset class="sae-group">
      <legend>{title}</legend>
      {controls.map((control) => (
        <Option key={control.name} control={control} />
      ))}
    </fieldset>
  );
}

/** One option: its label, its control, and a way back to its default. */
export function Option({ control }: { control: Control }) {
  const { synced } = useExplorer();
  const choice = useOption(control.name);
  const help = useUnique();
  const disabled = synced.contact.value !== "live";
  const subject = synced.subject.value;
  const effective = subject ? (subject.effective[control.name] ?? null) : undefined;
  const Field = SPECIAL[control.name] ?? fieldOf(control);
  return (
    <div class="sae-option" data-option={control.name}>
      <Field {...{ control, choice, effective, disabled, help }} />
      <p class="sae-help" id={help}>
        {helpOf(control)}
      </p>
    </div>
  );
}

function fieldOf(control: Control): (props: FieldProps) => ComponentChildren {
  if (control.kind === "bool") return control.optional ? Three : Switch;
  if (control.kind === "str") return control.choices.length ? Words : Text;
  if (control.kind === "direction") return DirectionField;
  if (control.kind === "interventions") return Interventions;
  if (["ints", "floats", "strs"].includes(control.kind)) return Chips;
  return control.slider ? Sliding : Plain;
}

/** The line above a control. */
export function Head({
  control,
  choice,
  disabled,
  children,
}: FieldProps & { children?: ComponentChildren }) {
  return (
    <div class="sae-option-head">
      <Label control={control} choice={choice} disabled={disabled} />
      {children}
    </div>
  );
}

/** The name of an option, and beside it the way back to its default. */
export function Label({ control, choice, disabled }: Omit<FieldProps, "effective" | "help">) {
  const changed = !same(choice.value, control.default);
  const label = labelOf(control.name);
  const usual = control.default === null ? "default" : `default, ${inWords(control.default)}`;
  return (
    <>
      <span class="sae-label" title={helpOf(control)}>
        {label}
      </span>
      <button
        type="button"
        class="sae-dot"
        data-shown={changed || undefined}
        disabled={disabled || !changed}
        aria-label={`${label}: back to the ${usual}`}
        title={`Back to the ${usual}`}
        onClick={({ currentTarget }) => {
          choice.change(control.default);
          // It vanishes: the focus goes to what it has changed.
          const field = currentTarget
            .closest(".sae-option")
            ?.querySelector<HTMLElement>("input:not(:disabled), select, textarea");
          field?.focus();
        }}
      />
    </>
  );
}

function inWords(value: Value): string {
  if (typeof value === "number") return plain(value);
  if (Array.isArray(value)) {
    if (!value.length) return "none";
    const items = value.map((item) =>
      typeof item === "number" ? plain(item) : visibleToken(String(item)),
    );
    return items.join(", ");
  }
  return typeof value === "boolean" ? (value ? "on" : "off") : String(value);
}

/** Length of the direction, which may be left to the sweep over scales. */
function Scale(props: FieldProps) {
  const { control, choice, disabled, effective } = props;
  const { tree } = useExplorer().synced;
  const auto = choice.value === AUTO;
  return (
    <Sliding
      {...props}
      choice={auto ? { ...choice, value: null } : choice}
      // What was found is what the tree was grown with.
      effective={auto ? (tree.value?.scale ?? null) : effective}
      // The button says it.
      tag={auto ? "" : undefined}
    >
      {control.choices.includes(AUTO) && (
        <button
          type="button"
          class="sae-small-button"
          aria-pressed={auto}
          title="Choose the scale by a sweep over many: see the panel Scale"
          disabled={disabled}
          onClick={() => choice.change(auto ? null : AUTO)}
        >
          {AUTO}
        </button>
      )}
    </Sliding>
  );
}

function Sliding(props: FieldProps & { tag?: string | undefined; children?: ComponentChildren }) {
  const { control, choice, effective, disabled, help } = props;
  const scale = scaleOf(control);
  const number = (choice.value ?? effective ?? null) as number | null;
  const low = scale?.value(0) ?? 0;
  const high = scale?.value(scale.steps) ?? 1;
  return (
    <>
      <Head {...props}>
        {props.children}
        <NumberBox {...props} />
      </Head>
      <Slider
        scale={scale}
        // Without a limit is beyond the largest of them; a default is not known before the model.
        value={number ?? (control.default === null ? low : high)}
        label={labelOf(control.name)}
        text={number === null ? nullWord(control) : plain(number)}
        describedby={help}
        disabled={disabled}
        onChange={choice.change}
      />
      <div class="sae-ends" aria-hidden="true">
        <span>{written(control, low)}</span>
        <span>{written(control, high)}</span>
      </div>
    </>
  );
}

/** A value as it is shown, and can be written. */
function written(control: Control, value: number): string {
  return control.kind === "int" ? count(value) : plain(value);
}

/** What a number of null is called where it stands for no number that is known. */
function nullWord(control: Control): string {
  return control.default === null ? "default" : "no limit";
}

function Plain(props: FieldProps) {
  return (
    <Head {...props}>
      <NumberBox {...props} />
    </Head>
  );
}

/** A number as text: takes any, within the slider's range or not; the kernel has the last word. */
function NumberBox(props: FieldProps & { tag?: string | undefined }) {
  const { control, choice, effective, disabled, help } = props;
  const standing = choice.value as number | null;
  const usual = (effective ?? null) as number | null;
  return (
    <Entry
      class="sae-number"
      inputMode="decimal"
      label={labelOf(control.name)}
      text={standing === null ? "" : written(control, standing)}
      placeholder={usual === null ? (props.tag ?? nullWord(control)) : plain(usual)}
      tag={standing === null && usual !== null ? (props.tag ?? "default") : ""}
      help={help}
      disabled={disabled}
      onCommit={(text) => {
        if (!text.trim()) {
          if (!control.optional) return "A number is needed.";
          choice.change(null);
          return null;
        }
        const value = numberIn(text);
        if (!Number.isFinite(value)) return "This is no number.";
        choice.change(value);
        return null;
      }}
      onStep={(direction) => {
        const scale = scaleOf(control);
        const from = standing ?? usual;
        if (from === null) return;
        choice.change(scale ? scale.value(scale.position(from) + direction) : from + direction);
      }}
    />
  );
}

interface EntryProps {
  class: string;
  inputMode?: "decimal" | "numeric" | "text";
  label: string;
  text: string;
  placeholder?: string;
  tag?: string;
  help?: string;
  /** What is wrong with the text that stands there; empty: nothing. */
  complaint?: string;
  disabled: boolean;
  /** Takes what was written, or says why not. */
  onCommit(text: string): string | null;
  onStep?(direction: 1 | -1): void;
}

/** A line of text that counts once it is finished: with Enter, or by leaving it. */
export function Entry(props: EntryProps) {
  const { text, label, tag, help, disabled, onCommit, onStep } = props;
  const draft = useSignal<string | null>(null);
  const complaint = useSignal<string | null>(null);
  const refuse = useRefuse();
  const wrong = complaint.value ?? (draft.value === null ? props.complaint : "");
  function commit() {
    if (draft.value !== null && draft.value !== text) {
      complaint.value = onCommit(draft.value);
      if (complaint.value) {
        refuse(new Error(complaint.value));
        return;
      }
    }
    draft.value = null;
    complaint.value = null;
  }
  return (
    <span class="sae-entry">
      {tag && <span class="sae-tag">{tag}</span>}
      <input
        type="text"
        class={props.class}
        inputMode={props.inputMode ?? "text"}
        spellcheck={false}
        autocomplete="off"
        aria-label={label}
        aria-describedby={help}
        aria-invalid={wrong ? true : undefined}
        title={wrong || undefined}
        placeholder={props.placeholder}
        value={draft.value ?? text}
        disabled={disabled}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
          complaint.value = null;
        }}
        onBlur={commit}
        onKeyDown={(event) => {
          if (event.key === "Enter") {
            commit();
            event.currentTarget.select();
          } else if (event.key === "Escape" && draft.value !== null) {
            event.stopPropagation();
            draft.value = null;
            complaint.value = null;
          } else if (onStep && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
            event.preventDefault();
            draft.value = null;
            onStep(event.key === "ArrowUp" ? 1 : -1);
          }
        }}
      />
    </span>
  );
}

function Text(props: FieldProps) {
  const { control, choice, effective, disabled, help } = props;
  return (
    <>
      <Head {...props} />
      <Entry
        class="sae-line"
        label={labelOf(control.name)}
        text={(choice.value as string | null) ?? ""}
        placeholder={effective === null ? "none" : String(effective ?? "")}
        tag={choice.value === null && effective ? "default" : ""}
        help={help}
        disabled={disabled}
        onCommit={(text) => {
          choice.change(text === "" && control.optional ? null : text);
          return null;
        }}
      />
    </>
  );
}

function Switch(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  return (
    <Head {...props}>
      <input
        type="checkbox"
        role="switch"
        aria-checked={choice.value === true}
        class="sae-switch"
        aria-label={labelOf(control.name)}
        aria-describedby={help}
        checked={choice.value === true}
        disabled={disabled}
        onChange={(event) => choice.change(event.currentTarget.checked)}
      />
    </Head>
  );
}

function Three(props: FieldProps) {
  return (
    <Pick
      {...props}
      words={[
        ["true", "yes"],
        ["false", "no"],
      ]}
      of={(word) => word === "true"}
    />
  );
}

/** To steer or to clamp: an activation that is held has no residual norm, so the unit goes along. */
function Action(props: FieldProps) {
  const { synced } = useExplorer();
  const { choice } = props;
  const change = (action: Value) =>
    action === "clamp" && synced.values.value.unit === "residual_norm"
      ? synced.set({ action, unit: "max_activation" })
      : choice.change(action);
  return <Words {...props} choice={{ ...choice, change }} />;
}

function Words(props: FieldProps) {
  return (
    <Pick
      {...props}
      words={props.control.choices.map((word) => [word, UNITS[word] ?? word.replaceAll("_", " ")])}
      of={(word) => word}
    />
  );
}

function Pick(props: FieldProps & { words: [string, string][]; of(word: string): Value }) {
  const { control, choice, disabled, help, words, of } = props;
  return (
    <Head {...props}>
      <select
        class="sae-select"
        aria-label={labelOf(control.name)}
        aria-describedby={help}
        value={choice.value === null ? "" : String(choice.value)}
        disabled={disabled}
        onChange={(event) => {
          const word = event.currentTarget.value;
          choice.change(word === "" ? null : of(word));
        }}
      >
        {control.optional && <option value="">any</option>}
        {words.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </Head>
  );
}

/** Radio buttons side by side. */
export function Segments<T extends string>(props: {
  label: string;
  words: readonly T[];
  value: T;
  disabled?: boolean;
  help?: string;
  onChange(word: T): void;
}) {
  const name = useUnique();
  return (
    <div
      class="sae-segments"
      role="radiogroup"
      aria-label={props.label}
      aria-describedby={props.help}
    >
      {props.words.map((word) => (
        <label key={word}>
          <input
            type="radio"
            name={name}
            value={word}
            checked={word === props.value}
            disabled={props.disabled}
            onChange={() => props.onChange(word)}
          />
          <span>{word}</span>
        </label>
      ))}
    </div>
  );
}

const ENDS = { encoder: [1, 0], decoder: [0, 1] };

/** Encoder, decoder, or a mix of both. */
function Weights(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  const mixed = Array.isArray(choice.value);
  const word = mixed ? "mix" : ((choice.value ?? "encoder") as keyof typeof ENDS);
  const [encoder, decoder] = mixed ? (choice.value as number[]) : ENDS[word as keyof typeof ENDS];
  const share = Math.abs(decoder) / (Math.abs(encoder) + Math.abs(decoder) || 1);
  const mix = (part: number) => [1 - part, part].map((value) => Number(value.toFixed(2)));
  return (
    <>
      <Head {...props}>
        {mixed && (
          <Entry
            class="sae-number"
            label="Coefficients of encoder and decoder"
            text={`${plain(encoder)}, ${plain(decoder)}`}
            help={help}
            disabled={disabled}
            onCommit={(text) => {
              const numbers = text
                .split(/[\s,;]+/)
                .filter(Boolean)
                .map(numberIn);
              if (numbers.length !== 2 || !numbers.every(Number.isFinite)) {
                return "Two numbers are needed: of the encoder and of the decoder.";
              }
              choice.change(numbers);
              return null;
            }}
          />
        )}
      </Head>
      <Segments
        label={labelOf(control.name)}
        words={["encoder", "mix", "decoder"] as const}
        value={word}
        disabled={disabled}
        help={help}
        onChange={(next) => choice.change(next === "mix" ? [0.5, 0.5] : next)}
      />
      {mixed && (
        <Slider
          scale={SHARES}
          value={share}
          label="Share of the decoder"
          text={`${plain(encoder)} encoder, ${plain(decoder)} decoder`}
          describedby={help}
          disabled={disabled}
          onChange={(part) => choice.change(mix(part))}
        />
      )}
    </>
  );
}

const SHARES = {
  steps: 20,
  value: (position: number) => position / 20,
  position: (share: number) => Math.round(share * 20),
};

/** Weights of the first principal components: the k-th number is that of the k-th. */
function Components(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  const weights = (choice.value ?? []) as number[];
  const scale = scaleOf(control);
  const whole = control.maximum ?? 1;
  const rest = whole - weights.reduce((sum, weight) => sum + weight, 0);
  const put = (index: number, weight: number) => {
    // What the others leave.
    const most = Number((rest + weights[index]).toPrecision(12));
    choice.change(weights.map((old, at) => (at === index ? Math.min(weight, most) : old)));
  };
  return (
    <>
      <Head {...props}>
        <span class="sae-steppers">
          <button
            type="button"
            aria-label="Remove the last component"
            title="Remove the last component"
            disabled={disabled || !weights.length}
            onClick={({ currentTarget }) => {
              choice.change(weights.slice(0, -1));
              // Without any left it takes no focus.
              const add =
                currentTarget.parentElement?.querySelector<HTMLElement>("button:last-child");
              if (weights.length === 1) add?.focus();
            }}
          >
            <Icon name="minus" />
          </button>
          <output aria-label="Components">{weights.length}</output>
          <button
            type="button"
            aria-label="Add a component"
            aria-describedby={help}
            title="Add a component"
            disabled={disabled}
            onClick={() => choice.change([...weights, 0])}
          >
            <Icon name="plus" />
          </button>
        </span>
      </Head>
      {weights.map((weight, index) => {
        const label = `PC ${index + 1}`;
        return (
          <div class="sae-component" key={index}>
            <span>{label}</span>
            <Slider
              scale={scale}
              value={weight}
              label={`Weight of ${label}`}
              text={plain(weight)}
              describedby={help}
              disabled={disabled}
              onChange={(value) => put(index, value)}
            />
            <Entry
              class="sae-number"
              inputMode="decimal"
              label={`Weight of ${label}`}
              text={plain(weight)}
              disabled={disabled}
              onCommit={(text) => {
                const value = numberIn(text);
                if (!Number.isFinite(value)) return "This is no number.";
                choice.change(weights.map((old, at) => (at === index ? value : old)));
                return null;
              }}
            />
          </div>
        );
      })}
      {weights.length > 0 && (
        <div class="sae-component sae-rest">
          <span>direction</span>
          <output>{plain(rest)}</output>
        </div>
      )}
    </>
  );
}

function Prompt(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  const draft = useSignal<string | null>(null);
  const box = useRef<HTMLTextAreaElement>(null);
  const warning = useUnique();
  const text = draft.value ?? (choice.value as string | null) ?? "";
  const lacking = !text.includes(GHOST);
  function commit() {
    if (draft.value === null || lacking) return;
    if (draft.value !== choice.value) choice.change(draft.value);
    draft.value = null;
  }
  return (
    <>
      <Head {...props}>
        <button
          type="button"
          class="sae-small-button"
          title={`Insert ${GHOST}, where the vector stands`}
          disabled={disabled}
          // Keeps the text field and its cursor as they are.
          onMouseDown={(event) => event.preventDefault()}
          onClick={() => {
            const field = box.current;
            if (!field) return;
            const { selectionStart, selectionEnd } = field;
            draft.value = text.slice(0, selectionStart) + GHOST + text.slice(selectionEnd);
            field.focus();
          }}
        >
          Insert {GHOST}
        </button>
      </Head>
      <textarea
        ref={box}
        class="sae-prompt"
        dir="auto"
        rows={3}
        spellcheck={false}
        aria-label={labelOf(control.name)}
        aria-describedby={`${help} ${warning}`}
        aria-invalid={lacking || undefined}
        value={text}
        disabled={disabled}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
        }}
        onBlur={commit}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            commit();
          } else if (event.key === "Escape" && draft.value !== null) {
            event.stopPropagation();
            draft.value = null;
          }
        }}
      />
      <p class="sae-note" id={warning} data-warning={lacking || undefined}>
        {lacking ? `${GHOST} is missing: it marks the vector's place.` : "Enter sends it."}
      </p>
    </>
  );
}
