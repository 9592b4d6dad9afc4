// Interventions as a list that is edited row by row: what is done to which feature, how strongly,
// and where. A row counts once it is complete.
import { useSignal, useSignalEffect } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { Intervention, Value } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { Entry, type FieldProps, Head, useUnique } from "./controls.tsx";
import { numberIn, plain, UNITS } from "./format.ts";
import { Icon } from "./icon.tsx";
import { same } from "./option.ts";

const KINDS = ["steer", "clamp", "ablate"] as const;
type Kind = (typeof KINDS)[number];

/** A clamp sets an activation, which a norm does not tell. */
const UNITS_OF: Record<Kind, string[]> = {
  steer: ["absolute", "max_activation", "residual_norm"],
  clamp: ["absolute", "max_activation"],
  ablate: [],
};
const PLACES: [string, string][] = [
  ["all", "everywhere"],
  ["prompt", "prompt"],
  ["generated", "generated"],
  ["ghost", "ghost"],
  ["list", "places …"],
];

export function Interventions(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  const { synced } = useExplorer();
  /** What stands there, complete or not, until the kernel has taken it. */
  const edited = useSignal<Intervention[] | null>(null);
  const wrong = useSignal<string | null>(null);
  /** What held when the kernel was asked last; null while nothing is asked. */
  const asked = useRef<{ told: Value } | null>(null);
  /** What held when it was last looked at. */
  const known = useRef<Value>(synced.values.peek()[control.name] ?? null);
  const box = useRef<HTMLDivElement>(null);
  const grab = useRef("");
  const note = useUnique();

  useSignalEffect(() => {
    const told = synced.values.value[control.name] ?? null;
    const refusal = synced.refusal.value;
    if (!asked.current) {
      // Another view or a cell has set them meanwhile; what is begun here comes behind.
      if (edited.peek() && !same(told, known.current)) {
        const begun = (edited.peek() ?? []).filter((row) => !complete(row));
        edited.value =
          told === null || begun.length === 0 ? null : [...(told as Intervention[]), ...begun];
      }
      known.current = told;
      return;
    }
    known.current = told;
    if (!same(told, asked.current.told)) {
      // Taken, though the kernel may write it in other words.
      edited.value = asked.current = null;
    } else if (refusal !== null) {
      // What was refused is kept to be mended.
      wrong.value = refusal;
      asked.current = null;
    }
  });
  useLayoutEffect(() => {
    if (!grab.current) return;
    box.current?.querySelector<HTMLElement>(grab.current)?.focus();
    grab.current = "";
  });

  const rows = edited.value ?? (synced.values.value[control.name] as Intervention[] | null) ?? [];
  function put(next: Intervention[]) {
    edited.value = next;
    wrong.value = null;
    if (!next.every(complete)) return;
    asked.current = { told: synced.values.value[control.name] ?? null };
    choice.change(next);
  }
  const lacking = rows.some((row) => !complete(row));
  return (
    <div class="sae-interventions" ref={box}>
      <Head {...props}>
        <button
          type="button"
          class="sae-small-button"
          aria-describedby={help}
          disabled={disabled || lacking}
          onClick={() => {
            const feature = synced.values.value.feature as number | null | undefined;
            // Its number is what is still to be given.
            grab.current = "li:last-child .sae-strength";
            put([...rows, ofKind("steer", { feature: feature ?? null, unit: "residual_norm" })]);
          }}
        >
          <Icon name="plus" /> Add
        </button>
      </Head>
      {rows.length > 0 && (
        <ul>
          {rows.map((row, index) => (
            <Row
              key={index}
              row={row}
              disabled={disabled}
              help={`${help} ${note}`}
              onChange={(next) => put(rows.map((old, at) => (at === index ? next : old)))}
              onRemove={() => {
                grab.current = ".sae-small-button";
                put(rows.filter((_, at) => at !== index));
              }}
            />
          ))}
        </ul>
      )}
      <p class="sae-note" id={note} role="status" data-warning={wrong.value !== null || undefined}>
        {wrong.value !== null
          ? visible(wrong.value)
          : lacking
            ? "It counts once its numbers are given."
            : rows.some(({ at }) => at === "generated")
              ? "“Generated” leaves the prompt's last token as it is, which predicts the first node."
              : ""}
      </p>
      {(wrong.value !== null || (lacking && edited.value)) && (
        <button
          type="button"
          class="sae-small-button"
          disabled={disabled}
          onClick={() => {
            grab.current = ".sae-small-button";
            edited.value = wrong.value = null;
          }}
        >
          Discard the change
        </button>
      )}
    </div>
  );
}

function Row(props: {
  row: Intervention;
  disabled: boolean;
  help: string;
  onChange(row: Intervention): void;
  onRemove(): void;
}) {
  const { row, disabled, help, onChange, onRemove } = props;
  const kind = row.kind as Kind;
  const amount = kind === "clamp" ? "value" : "strength";
  // What Python leaves at its default, it does not write.
  const { at = "all", unit = "absolute" } = row;
  const list = Array.isArray(at);
  const put = (values: Intervention) => onChange({ ...row, ...values });
  return (
    <li>
      <div>
        <select
          class="sae-select"
          aria-label="What is done"
          aria-describedby={help}
          value={kind}
          disabled={disabled}
          onChange={(event) => onChange(ofKind(event.currentTarget.value as Kind, row))}
        >
          {KINDS.map((word) => (
            <option key={word}>{word}</option>
          ))}
        </select>
        <Entry
          class="sae-number"
          inputMode="numeric"
          label="Feature of the intervention"
          text={said(row.feature)}
          placeholder="feature"
          disabled={disabled}
          onCommit={(text) => {
            const feature = numberIn(text);
            if (Number.isInteger(feature) && feature >= 0) put({ feature });
            // A steered direction may be a sum.
            else if (kind === "steer" && text.trim()) put({ feature: text.trim() });
            else return "The number of a feature is needed.";
            return null;
          }}
        />
        <button
          type="button"
          class="sae-icon-button"
          aria-label={`Remove ${interventionInWords(row)}`}
          title="Remove"
          disabled={disabled}
          onClick={onRemove}
        >
          <Icon name="close" />
        </button>
      </div>
      {kind !== "ablate" && (
        <div>
          <Entry
            class="sae-number sae-strength"
            inputMode="decimal"
            label={amount === "value" ? "Value" : "Strength"}
            text={said(row[amount])}
            placeholder={amount === "value" ? "value" : "strength"}
            disabled={disabled}
            onCommit={(text) => {
              const number = numberIn(text);
              if (!Number.isFinite(number)) return "A number is needed.";
              put({ [amount]: number });
              return null;
            }}
          />
          <select
            class="sae-select"
            aria-label="Unit"
            value={String(unit)}
            disabled={disabled}
            onChange={(event) => put({ unit: event.currentTarget.value })}
          >
            {UNITS_OF[kind].map((unit) => (
              <option key={unit} value={unit}>
                {UNITS[unit]}
              </option>
            ))}
          </select>
        </div>
      )}
      <div>
        <select
          class="sae-select"
          aria-label="Where"
          value={list ? "list" : String(at)}
          disabled={disabled}
          onChange={({ currentTarget: { value } }) => put({ at: value === "list" ? [] : value })}
        >
          {PLACES.map(([word, text]) => (
            <option key={word} value={word}>
              {text}
            </option>
          ))}
        </select>
        <label class="sae-tool">
          <input
            type="checkbox"
            title="Leave the token that begins the text as it is"
            checked={row.skip_bos === true}
            disabled={disabled}
            onChange={(event) => put({ skip_bos: event.currentTarget.checked })}
          />
          skip BOS
        </label>
      </div>
      {list && (
        <Entry
          class="sae-line"
          label="Places"
          text={(at as number[]).join(", ")}
          placeholder="0 is the first token, −1 the prompt's last"
          disabled={disabled}
          onCommit={(text) => {
            const places = text
              .split(/[\s,;]+/)
              .filter(Boolean)
              .map(numberIn);
            if (!places.length || !places.every(Number.isInteger)) {
              return "Whole numbers are needed, such as 3, -1.";
            }
            put({ at: places });
            return null;
          }}
        />
      )}
    </li>
  );
}

/** An intervention of a kind, with what of another also holds for it. */
function ofKind(kind: Kind, from: Intervention): Intervention {
  const feature = kind !== "steer" && typeof from.feature !== "number" ? null : from.feature;
  const where = { at: from.at ?? "all", skip_bos: from.skip_bos ?? false };
  if (kind === "ablate") return { kind, feature, ...where };
  const unit = UNITS_OF[kind].includes(String(from.unit)) ? from.unit : "absolute";
  const amount = from.strength ?? from.value ?? null;
  return { kind, feature, [kind === "clamp" ? "value" : "strength"]: amount, unit, ...where };
}

function complete({ kind, feature, strength, value, at }: Intervention): boolean {
  const amount = kind === "steer" ? strength : kind === "clamp" ? value : 0;
  const known = feature !== null && feature !== undefined && typeof amount === "number";
  return known && !(Array.isArray(at) && !at.length);
}

function said(value: Value | undefined): string {
  if (typeof value === "number") return plain(value);
  // A direction with vectors of its own has no short text.
  return typeof value === "string" ? value : value ? "direction" : "";
}

/** One intervention in words: "steer feature 4021 by 0.5 × residual norm, in: ghost". */
export function interventionInWords(row: Intervention): string {
  const { kind, at } = row;
  const feature = typeof row.feature === "number" ? `feature ${row.feature}` : said(row.feature);
  const unit =
    row.unit === "absolute" || !row.unit ? "" : ` ${UNITS[String(row.unit)] ?? row.unit}`;
  const amount =
    kind === "steer"
      ? ` by ${said(row.strength)}${unit}`
      : kind === "clamp"
        ? ` at ${said(row.value)}${unit}`
        : "";
  const place = Array.isArray(at)
    ? `, at ${at.join(", ")}`
    : at && at !== "all"
      ? `, in: ${at}`
      : "";
  return `${kind} ${visible(feature)}${amount}${place}${row.skip_bos ? ", not BOS" : ""}`.trim();
}
