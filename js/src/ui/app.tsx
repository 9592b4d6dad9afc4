// The widget as a whole: where everything stands, and the keys that work everywhere in it.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { PANELS } from "../panels/index.ts";
import { useExplorer } from "../state/context.ts";
import { Controls, useUnique } from "./controls.tsx";
import { Gist } from "./gist.tsx";
import { addressOf, Header, useWalk } from "./header.tsx";
import { Icon } from "./icon.tsx";
import { useAsk } from "./option.ts";
import { Tabs } from "./tabs.tsx";
import { followTheme } from "./theme.ts";

const MAIN = PANELS.filter(({ place }) => place === "main");
const SIDE = PANELS.filter(({ place }) => place === "side");

export function App() {
  const { synced, local, root } = useExplorer();
  const walk = useWalk();
  const ask = useAsk();
  const embedded = useSignal(false);
  useEffect(() => followTheme(root), [root]);

  function press(event: KeyboardEvent) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const { state } = synced.status.value;
    if (event.key === "Escape") {
      if (synced.contact.value !== "live") return;
      if (state === "loading" || state === "growing") ask({ type: "cancel" });
      for (const { name } of PANELS) {
        if (synced.job(name).state === "running") ask({ type: "cancel", panel: name });
      }
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
      {synced.tree.value && <Gist tree={synced.tree.value} />}
      <div class="sae-body">
        <ControlColumn />
        <section class="sae-main" aria-label="Analyses">
          <Tabs label="Analyses" panels={MAIN} chosen={local.panel.main} />
        </section>
        <section class="sae-side" aria-label="Lists">
          <Tabs label="Lists" panels={SIDE} chosen={local.panel.side} />
        </section>
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
    <section class="sae-column" data-controls={choice} aria-label="Controls">
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
    </section>
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
