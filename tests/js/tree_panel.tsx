// The tree's panel alone, on a fake model.
import { render } from "preact";
import { act } from "preact/test-utils";
import { TreePanel } from "../../js/src/panels/trees.tsx";
import { type Explorer, ExplorerContext } from "../../js/src/state/context.ts";
import { local } from "../../js/src/state/local.ts";
import { connect } from "../../js/src/state/synced.ts";
import { type FakeModel, fakeModel } from "./model.ts";

export interface Panel {
  model: FakeModel;
  explorer: Explorer;
  root: HTMLElement;
  press(key: string, how?: KeyboardEventInit): Promise<KeyboardEvent>;
  /** Where keys go. */
  focus(selector: string): void;
  do(change: () => void): Promise<void>;
  close(): void;
}

export async function panel(state: Record<string, unknown> = {}): Promise<Panel> {
  const model = fakeModel(state);
  const root = document.createElement("div");
  document.body.append(root);
  const explorer: Explorer = { synced: connect(model), local: local(), root };
  const perform = async (change: () => void) => {
    await act(async () => change());
  };
  await perform(() =>
    render(
      <ExplorerContext.Provider value={explorer}>
        <TreePanel />
      </ExplorerContext.Provider>,
      root,
    ),
  );
  return {
    model,
    explorer,
    root,
    async press(key, how = {}) {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...how });
      await perform(() => (document.activeElement as Element).dispatchEvent(event));
      return event;
    },
    focus: (selector) => root.querySelector<HTMLElement>(selector)?.focus(),
    do: perform,
    close() {
      render(null, root);
      explorer.synced.close();
      root.remove();
    },
  };
}
