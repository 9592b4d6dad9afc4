// The host of an exported page: shows what the page carries with the same bundle as a notebook's.
import { restore } from "../state/buffers.ts";
import type { Model } from "../state/synced.ts";

/** What widget/html.py puts into the page. */
interface Carried {
  state: Record<string, unknown>;
  /** The buffers of the state in base64, and where they belong. */
  buffers: string[];
  paths: (string | number)[][];
  css: string;
  module: string;
}

interface Bundle {
  default: { render(context: { model: Model; el: HTMLElement }): void };
}

const nothing = () => {};

async function start(summary: HTMLElement): Promise<void> {
  const text = document.getElementById("carried")?.textContent ?? "";
  const { state, buffers, paths, css, module } = JSON.parse(text) as Carried;
  const bytes = (packed: string) => Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
  restore(
    state,
    paths,
    buffers.map((packed) => bytes(packed).buffer),
  );

  const address = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const bundle = (await import(address)) as Bundle;
  URL.revokeObjectURL(address);

  const style = document.createElement("style");
  style.textContent = css;
  const el = document.createElement("div");
  document.head.append(style);
  summary.before(el);
  try {
    // A copy never changes, and has nobody to send to.
    const model = { get: (name: string) => state[name], on: nothing, off: nothing, send: nothing };
    bundle.default.render({ model, el });
  } catch (error) {
    style.remove();
    el.remove();
    throw error;
  }
  summary.remove();
}

// In a notebook's output it stands in a frame, which is told whether the notebook is dark.
addEventListener("message", ({ source, data }: MessageEvent<{ scheme?: unknown } | null>) => {
  const scheme = data?.scheme;
  if (source !== parent || parent === window || (scheme !== "dark" && scheme !== "light")) return;
  document.documentElement.style.colorScheme = scheme;
});

const summary = document.getElementById("summary") as HTMLElement;
start(summary).catch((error: unknown) => {
  console.error(error);
  const notice = document.createElement("p");
  notice.setAttribute("role", "alert");
  notice.textContent = `The interactive view could not start in this browser (${error}). This is its summary.`;
  summary.prepend(notice);
});
