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
    // Notebook 7 looks at keys before they are here, and leaves alone those of an element so marked.
    root.addEventListener("focusin", ({ target }) => {
      (target as Element).setAttribute("data-lm-suppress-shortcuts", "true");
    });
    el.append(root);
    // The summary that the output carries for places without scripts: here the widget says more.
    const style = document.createElement("style");
    const summary = model.get("_summary_class");
    if (summary) style.textContent = `.${summary} { display: none; }`;
    el.append(style);
    const synced = connect(model);
    // ipywidgets marks what it shows from a saved notebook, or after its kernel has gone.
    const parted = () => {
      if (el.classList.contains("jupyter-widgets-disconnected")) synced.cut();
    };
    const watch = new MutationObserver(parted);
    watch.observe(el, { attributeFilter: ["class"] });
    parted();
    render(
      <ExplorerContext.Provider value={{ synced, local: local(), root }}>
        <App />
      </ExplorerContext.Provider>,
      root,
    );
    return () => {
      render(null, root);
      synced.close();
      watch.disconnect();
      style.remove();
      root.remove();
    };
  },
};
