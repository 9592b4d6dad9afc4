// What steering and the dose-response ask for: one text and one way to steer, the same for both,
// and what is the analysis' own.
import { useSignal } from "@preact/signals";
import { useExplorer } from "../state/context.ts";
import type { Control } from "../state/protocol.ts";
import { helpOf, labelOf, Option, useUnique } from "./controls.tsx";
import { same, useAsk, useOption } from "./option.ts";

/** Of the options that both share, those in sight; the others are folded away. */
const IN_SIGHT = ["action", "unit"];
const LISTS = ["ints", "floats", "strs"];
/** What the header and the controls hold for all analyses. */
const ELSEWHERE = ["feature", "direction", "interventions"];

export function SteeringOptions({ panel, group }: { panel: string; group: string }) {
  const { synced } = useExplorer();
  const disabled = synced.contact.value !== "live";
  const controls = synced.controls.value.filter(
    (control) =>
      (control.group === "steering" || control.group === group) &&
      !ELSEWHERE.includes(control.name),
  );
  const text = controls.find(({ name }) => name === "text");
  const shown = controls.filter(
    ({ name, kind }) => IN_SIGHT.includes(name) || LISTS.includes(kind),
  );
  const rest = controls.filter((control) => control !== text && !shown.includes(control));
  return (
    <>
      {text && <TextOption control={text} panel={panel} disabled={disabled} />}
      <div class="sae-asked-line">
        {shown.map((control) => (
          <Option key={control.name} control={control} />
        ))}
      </div>
      <Folded controls={rest} />
    </>
  );
}

/** The text to go on from. It counts once the field is left; with Ctrl + Enter it runs as well. */
function TextOption(props: { control: Control; panel: string; disabled: boolean }) {
  const { control, panel, disabled } = props;
  const choice = useOption(control.name);
  const ask = useAsk();
  const draft = useSignal<string | null>(null);
  function commit() {
    if (draft.value !== null && draft.value !== choice.value) choice.change(draft.value);
    draft.value = null;
  }
  const help = useUnique();
  return (
    <>
      <textarea
        class="sae-prompt"
        rows={2}
        spellcheck={false}
        aria-label={labelOf(control.name)}
        aria-describedby={help}
        value={draft.value ?? String(choice.value ?? "")}
        disabled={disabled}
        onInput={(event) => {
          draft.value = event.currentTarget.value;
        }}
        onBlur={commit}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            commit();
            ask({ type: "run", panel });
          } else if (event.key === "Escape" && draft.value !== null) {
            event.stopPropagation();
            draft.value = null;
          }
        }}
      />
      <p class="sae-help" id={help}>
        {helpOf(control)} Ctrl + Enter runs it.
      </p>
    </>
  );
}

/** Options that are seldom changed, and the names of those that are. */
function Folded({ controls }: { controls: Control[] }) {
  const { values } = useExplorer().synced;
  const open = useSignal(false);
  const changed = controls.filter(
    ({ name, default: usual }) => !same(values.value[name] ?? null, usual),
  );
  if (!controls.length) return null;
  return (
    <details
      class="sae-filters"
      open={open.value}
      onToggle={(event) => {
        open.value = event.currentTarget.open;
      }}
    >
      <summary>
        More options
        <span class="sae-active">{changed.map(({ name }) => labelOf(name)).join(", ")}</span>
      </summary>
      {open.value && (
        <div class="sae-filter-list">
          {controls.map((control) => (
            <Option key={control.name} control={control} />
          ))}
        </div>
      )}
    </details>
  );
}
