// The widget as a whole: where everything stands, and the keys that work everywhere in it.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { PANELS } from "../panels/index.ts";
import { useExplorer } from "../state/context.ts";
import { Controls, useUnique } from "./controls.tsx";
import { addressOf, Header, useWalk } from "./header.tsx";
import { Icon } from "./icon.tsx";
import { useAsk } from "./option.ts";
import { followTheme } from "./theme.ts";

const [MAIN, ...SIDE] = PANELS;

export function App() {
  const { synced, root } = useExplorer();
  const walk = useWalk();
  const ask = useAsk();
  const embedded = useSignal(false);
  useEffect(() => followTheme(root), [root]);

  function press(event: KeyboardEvent) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const { state } = synced.status.value;
    if (event.key === "Escape") {
      const busy = state === "loading" || state === "growing";
      if (busy && synced.contact.value !== "saved") ask({ type: "cancel" });
    } else if (!isWritten(event.target) && walk.feature !== null) {
      if (event.key === "[" && walk.feature > 0) walk.go(walk.feature - 1);
      else if (event.key === "]" && walk.feature < walk.width - 1) walk.go(walk.feature + 1);
    }
  }

  const address = addressOf(synced.subject.value, walk.feature);
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: keys reach it from what has the focus
    <div class="sae-app" tabIndex={-1} onKeyDown={press}>
      <Header
        walk={walk}
        onEmbed={() => {
          embedded.value = !embedded.value;
        }}
      />
      <div class="sae-body">
        <ControlColumn />
        <section class="sae-main" aria-label={MAIN.title}>
          <MAIN.Panel />
        </section>
        <Side />
        {embedded.value && address && synced.contact.value !== "saved" && (
          <Embed
            address={address}
            onClose={() => {
              embedded.value = false;
            }}
          />
        )}
      </div>
    </div>
  );
}

/** Whether keys pressed there are text. */
function isWritten(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}

/** The controls, foldable. Until the reader says, the stylesheet shows them where there is room. */
function ControlColumn() {
  const wanted = useSignal<boolean | null>(null);
  const shown = useSignal(true);
  const body = useRef<HTMLDivElement>(null);
  const id = useUnique();
  useEffect(() => {
    const element = body.current as HTMLDivElement;
    const watch = new ResizeObserver(() => {
      shown.value = element.offsetParent !== null;
    });
    watch.observe(element);
    return () => watch.disconnect();
  }, [shown]);
  const choice = wanted.value === null ? "auto" : wanted.value ? "open" : "folded";
  const open = wanted.value ?? shown.value;
  const title = open ? "Fold the controls" : "Show the controls";
  return (
    <aside class="sae-column" data-controls={choice} aria-label="Controls">
      <button
        type="button"
        class="sae-fold"
        aria-expanded={open}
        aria-controls={id}
        title={title}
        onClick={() => {
          wanted.value = !open;
        }}
      >
        <Icon name="controls" />
        <span>Controls</span>
      </button>
      <div id={id} class="sae-column-body" ref={body}>
        <Controls />
      </div>
    </aside>
  );
}

/** The other panels, as tabs. All stay drawn, so that none forgets how it was sorted. */
function Side() {
  const chosen = useSignal(SIDE[0].name);
  const id = useUnique();
  function move(event: KeyboardEvent & { currentTarget: HTMLElement }) {
    const at = SIDE.findIndex(({ name }) => name === chosen.value);
    const next = {
      ArrowRight: (at + 1) % SIDE.length,
      ArrowLeft: (at - 1 + SIDE.length) % SIDE.length,
      Home: 0,
      End: SIDE.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    chosen.value = SIDE[next].name;
    event.currentTarget.querySelectorAll<HTMLElement>("[role=tab]")[next].focus();
  }
  return (
    <aside class="sae-side" aria-label="Lists">
      <div class="sae-tabs" role="tablist" aria-label="Lists" onKeyDown={move}>
        {SIDE.map(({ name, title }) => (
          <button
            type="button"
            key={name}
            role="tab"
            id={`${id}-${name}`}
            aria-selected={name === chosen.value}
            aria-controls={`${id}-${name}-panel`}
            tabIndex={name === chosen.value ? 0 : -1}
            onClick={() => {
              chosen.value = name;
            }}
          >
            {title}
          </button>
        ))}
      </div>
      {SIDE.map(({ name, Panel }) => (
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
    </aside>
  );
}

/** Neuronpedia's own page of the feature. Drawn only on request: it asks a foreign server. */
function Embed({ address, onClose }: { address: string; onClose(): void }) {
  return (
    <section class="sae-embed" aria-label="Neuronpedia">
      <div class="sae-embed-head">
        <span>{address}</span>
        <button
          type="button"
          class="sae-icon-button"
          aria-label="Close Neuronpedia"
          title="Close"
          onClick={onClose}
        >
          <Icon name="close" />
        </button>
      </div>
      <iframe
        src={`${address}?embed=true`}
        title="Neuronpedia"
        sandbox="allow-scripts allow-same-origin allow-popups"
        referrerpolicy="no-referrer"
      />
    </section>
  );
}
