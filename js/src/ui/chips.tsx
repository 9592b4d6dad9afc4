// A list of values that is edited one by one: each can be removed, and a field takes more.
import { useRef } from "preact/hooks";
import { visible, visibleToken } from "../text.ts";
import { Entry, type FieldProps, Label, labelOf } from "./controls.tsx";
import { numberIn, plain } from "./format.ts";
import { Icon } from "./icon.tsx";

type Item = number | string;

export function Chips({ control, choice, disabled, help }: FieldProps) {
  const box = useRef<HTMLFieldSetElement>(null);
  const items = (choice.value ?? []) as Item[];
  const label = labelOf(control.name);
  const put = (next: Item[]) => choice.change(next as number[] | string[]);

  /** Remove one; the focus goes to the one that takes its place, or to the field. */
  function remove(index: number) {
    put(items.filter((_, place) => place !== index));
    const buttons = box.current?.querySelectorAll<HTMLElement>(".sae-value button") ?? [];
    const next = buttons[index + 1] ?? buttons[index - 1] ?? box.current?.querySelector("input");
    next?.focus();
  }

  function add(text: string): string | null {
    if (text.trim() === "") return null;
    if (control.kind === "strs") {
      // A token may begin with a space, and hold a comma.
      put([...items.filter((item) => item !== text), text]);
      return null;
    }
    const numbers = text
      .split(/[\s,;]+/)
      .filter(Boolean)
      .map(numberIn);
    const whole = control.kind === "ints";
    if (!numbers.every(whole ? Number.isInteger : Number.isFinite)) {
      return `${whole ? "Whole numbers are" : "A number is"} needed, such as ${whole ? "17" : "0.5"}.`;
    }
    const all = [...new Set([...(items as number[]), ...numbers])];
    put(whole ? all : all.sort((one, other) => one - other));
    return null;
  }

  return (
    <fieldset class="sae-chips" ref={box} aria-label={label} aria-describedby={help}>
      <Label control={control} choice={choice} disabled={disabled} />
      {items.length === 0 && (
        <span class="sae-muted">{control.kind === "floats" ? "automatic" : "none"}</span>
      )}
      {items.map((item, index) => {
        const shown =
          typeof item === "number" ? plain(item).replace(/^-/, "−") : visibleToken(item);
        return (
          <span class="sae-value" key={item}>
            <bdi>{shown}</bdi>
            <button
              type="button"
              aria-label={`Remove ${visible(shown)}`}
              title="Remove  Delete"
              disabled={disabled}
              onClick={() => remove(index)}
              onKeyDown={(event) => {
                if (event.key !== "Delete" && event.key !== "Backspace") return;
                event.preventDefault();
                remove(index);
              }}
            >
              <Icon name="close" />
            </button>
          </span>
        );
      })}
      <Entry
        class="sae-add"
        inputMode={control.kind === "strs" ? "text" : "decimal"}
        label={`Add to ${label.toLowerCase()}`}
        text=""
        placeholder="add"
        help={help}
        disabled={disabled}
        onCommit={add}
      />
    </fieldset>
  );
}
