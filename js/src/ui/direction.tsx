// A direction as text, such as "4021 - 0.5*17:decoder", in place of a feature.
import { useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { Control, Value } from "../state/protocol.ts";
import { Entry, type FieldProps, Head, labelOf } from "./controls.tsx";

const SECOND = "{ghost2}";

/** Like the feature, it is what is looked at and no setting: the schema of controls leaves it out. */
export const DIRECTION: Control = {
  name: "direction",
  group: "vector",
  kind: "direction",
  optional: true,
  default: null,
  help: "A sum of features in place of one: 4021 - 0.5*17, and 17:decoder for other weights.",
  unit: "",
  range: "",
  minimum: null,
  maximum: null,
  above: null,
  slider: null,
  log: false,
  choices: [],
};

/** The direction that is looked at; without one, it is a feature again. */
export function SourceDirection(props: FieldProps) {
  const { choice } = props;
  const back = useWayBack();
  const change = (value: Value) => (value === null ? back() : choice.change(value));
  return <DirectionField {...props} choice={{ ...choice, change }} />;
}

/** From a direction to the feature that was looked at last. */
export function useWayBack(): () => void {
  const { synced } = useExplorer();
  const last = useRef(0);
  const { feature } = synced.values.value;
  if (typeof feature === "number") last.current = feature;
  return () => synced.set({ direction: null, feature: last.current });
}

export function DirectionField(props: FieldProps) {
  const { control, choice, disabled, help } = props;
  return (
    <>
      <Head {...props} />
      <Entry
        class="sae-line"
        label={labelOf(control.name)}
        text={directionText(choice.value)}
        placeholder="4021 - 0.5*17:decoder"
        help={help}
        disabled={disabled}
        onCommit={(text) => {
          choice.change(text.trim() || null);
          return null;
        }}
      />
    </>
  );
}

/** The direction of the second placeholder: in the way only where the prompt has it. */
export function SecondDirection(props: FieldProps) {
  const { values } = useExplorer().synced;
  const used = String(values.value.prompt ?? "").includes(SECOND);
  if (used) return <DirectionField {...props} />;
  return (
    <details class="sae-second">
      <summary>Second direction</summary>
      <DirectionField {...props} />
      <p class="sae-note">{`It stands at ${SECOND}, which the prompt does not have.`}</p>
    </details>
  );
}

/** A direction as it is written; those with vectors of their own have no text. */
export function directionText(value: Value | undefined): string {
  if (typeof value === "string") return value;
  return value ? "a vector of its own" : "";
}
