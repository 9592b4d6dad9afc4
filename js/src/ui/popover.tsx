// A button with something that opens below it.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { useUnique } from "./controls.tsx";
import { Icon, type IconName } from "./icon.tsx";

export function Popover(props: {
  label: string;
  icon: IconName;
  title: string;
  role: "menu" | "dialog";
  disabled?: boolean;
  /** Drawn while it is open. */
  children(close: () => void): ComponentChildren;
}) {
  const open = useSignal(false);
  const button = useRef<HTMLButtonElement>(null);
  const popup = useRef<HTMLDivElement>(null);
  const id = useUnique();
  const shown = open.value;
  // At once, so that a key pressed right after the one that opened it goes to what is within.
  useLayoutEffect(() => {
    const first = popup.current?.querySelector<HTMLElement>("[role=menuitem]");
    if (shown) (first ?? popup.current)?.focus();
  }, [shown]);
  function close() {
    open.value = false;
    button.current?.focus();
  }
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: what is within bubbles up to here
    <span
      class="sae-popover"
      onFocusOut={(event) => {
        const next = event.relatedTarget;
        if (!(next instanceof Node && event.currentTarget.contains(next))) open.value = false;
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape" && open.value) {
          event.stopPropagation();
          close();
        } else if (event.key === "ArrowDown" && !open.value && event.target === button.current) {
          event.preventDefault();
          open.value = true;
        }
      }}
    >
      <button
        type="button"
        ref={button}
        title={props.title}
        aria-haspopup={props.role}
        aria-expanded={open.value}
        aria-controls={id}
        disabled={props.disabled}
        onClick={() => {
          open.value = !open.value;
        }}
      >
        <Icon name={props.icon} />
        {props.label}
      </button>
      {open.value && (
        // Takes the focus where a click on what is within does not, so that it stays open.
        // biome-ignore lint/a11y/useAriaPropsSupportedByRole: both of its roles take a label
        <div
          id={id}
          class="sae-popup"
          role={props.role}
          aria-label={props.title}
          // A dialog may have to be scrolled.
          tabIndex={props.role === "dialog" ? 0 : -1}
          ref={popup}
        >
          {props.children(close)}
        </div>
      )}
    </span>
  );
}
