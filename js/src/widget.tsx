// Wiring only: a model and an element in, a drawn explorer out.
import { render } from "preact";
import { ExplorerContext } from "./state/context.ts";
import { local } from "./state/local.ts";
import { connect, type Model } from "./state/synced.ts";
import { App } from "./ui/app.tsx";

export default {
  render({ model, el }: { model: Model; el: HTMLElement }) {
    const root = document.createElement("div");
    root.className = "sae-explorer";
    // The notebook's own shortcuts must not see what is typed here.
    const keep = (event: Event) => event.stopPropagation();
    for (const kind of ["keydown", "keyup", "keypress"]) root.addEventListener(kind, keep);
    el.append(root);
    const synced = connect(model);
    render(
      <ExplorerContext.Provider value={{ synced, local: local(), root }}>
        <App />
      </ExplorerContext.Provider>,
      root,
    );
    return () => {
      render(null, root);
      synced.close();
      root.remove();
    };
  },
};
