// Light or dark, as the host is: whatever it sets ends in the background that it gives us.

/** Keep the root's `color-scheme` at what the host shows; returns what ends it. */
export function followTheme(root: HTMLElement): () => void {
  const decide = () => {
    root.style.colorScheme = "";
    const scheme = luminance(backdrop(root)) < 0.5 ? "dark" : "light";
    root.style.colorScheme = scheme;
  };
  // Hosts set an attribute first and load the theme's stylesheet after it.
  let late: ReturnType<typeof setTimeout> | undefined;
  const changed = () => {
    decide();
    clearTimeout(late);
    late = setTimeout(decide, 300);
  };
  const page = root.ownerDocument;
  const watch = new MutationObserver(changed);
  watch.observe(page.documentElement, { attributes: true });
  watch.observe(page.body, { attributes: true });
  const preference = matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", changed);
  changed();
  return () => {
    watch.disconnect();
    preference.removeEventListener("change", changed);
    clearTimeout(late);
  };
}

/** The colour behind the widget. */
function backdrop(root: HTMLElement): string {
  const own = getComputedStyle(root);
  const themed = ["--jp-layout-color1", "--vscode-editor-background"].some((name) =>
    own.getPropertyValue(name),
  );
  if (!themed) {
    for (let at = above(root); at; at = above(at)) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour && channels(colour)[3] > 0.5) return colour;
    }
  }
  // Where nobody paints, it is the canvas of the host's own scheme.
  return own.backgroundColor;
}

/** The parent, out of a shadow root too. */
function above(element: Element): Element | null {
  const root = element.getRootNode();
  return element.parentElement ?? (root instanceof ShadowRoot ? root.host : null);
}

type Channels = [red: number, green: number, blue: number, alpha: number];

/** A computed colour's channels, 0 to 1. */
function channels(colour: string): Channels {
  const [one = 1, two = 1, three = 1, alpha = 1] = (colour.match(/-?[\d.]+(e-?\d+)?/g) ?? []).map(
    Number,
  );
  if (colour.startsWith("rgb")) return [one / 255, two / 255, three / 255, alpha];
  // Of the others only these begin with a lightness instead of red.
  if (colour.startsWith("ok")) return [one, one, one, alpha];
  if (/^(lab|lch)/.test(colour)) return [one / 100, one / 100, one / 100, alpha];
  return [one, two, three, alpha];
}

/** Perceived brightness, 0 to 1. */
function luminance(colour: string): number {
  const [red, green, blue] = channels(colour);
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}
