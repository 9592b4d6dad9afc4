// Panels of which one is in sight. All stay drawn, so that none forgets how it was sorted.
import type { Signal } from "@preact/signals";
import type { PanelEntry } from "../panels/index.ts";
import { useExplorer } from "../state/context.ts";
import { useUnique } from "./controls.tsx";

export function Tabs(props: { label: string; panels: PanelEntry[]; chosen: Signal<string> }) {
  const { label, chosen } = props;
  const { synced } = useExplorer();
  const id = useUnique();
  // A saved copy shows what it holds, and cannot be asked for more.
  const panels = props.panels.filter(
    ({ name, onRequest }) =>
      !(onRequest && synced.contact.value === "saved") || synced.result(name).value,
  );
  function move(event: KeyboardEvent & { currentTarget: HTMLElement }) {
    const at = panels.findIndex(({ name }) => name === chosen.value);
    const next = {
      ArrowRight: (at + 1) % panels.length,
      ArrowLeft: (at - 1 + panels.length) % panels.length,
      Home: 0,
      End: panels.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    chosen.value = panels[next].name;
    event.currentTarget.querySelectorAll<HTMLElement>("[role=tab]")[next].focus();
  }
  return (
    <>
      <div class="sae-tabs" role="tablist" aria-label={label} onKeyDown={move}>
        {panels.map(({ name, title }) => (
          <button
            type="button"
            key={name}
            role="tab"
            id={`${id}-${name}`}
            aria-selected={name === chosen.value}
            aria-controls={`${id}-${name}-panel`}
            data-state={synced.job(name).state}
            tabIndex={name === chosen.value ? 0 : -1}
            onClick={() => {
              chosen.value = name;
            }}
          >
            {title}
            {synced.job(name).state === "running" && <span class="sae-unseen">, running</span>}
          </button>
        ))}
      </div>
      {panels.map(({ name, Panel }) => (
        <div
          key={name}
          role="tabpanel"
          class="sae-tabpanel"
          id={`${id}-${name}-panel`}
          aria-labelledby={`${id}-${name}`}
          hidden={name !== chosen.value}
        >
          <Panel />
        </div>
      ))}
    </>
  );
}
