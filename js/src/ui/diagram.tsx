// The tree as a diagram on a canvas, from left to right: pan, zoom, fold, walk.
import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import { childrenOf } from "../state/tree.ts";
import { nodeInWords } from "./hover_card.tsx";
import { type Layout, layoutOf, nodeAt, ROW } from "./layout.ts";
import { type Colours, measure, meter, paint, type Sight } from "./paint.ts";
import { Tool } from "./tree_tools.tsx";
import { pressShared, type TreeView } from "./tree_view.ts";

/** Room around the drawing, in pixels. */
const EDGE = 18;
const MOST_ZOOM = 4;
/** The diagram first shows itself no smaller, so that it can be read; fitting may go below. */
const READABLE = 0.85;
/** Pixels that a press may wander and still be a click. */
const STILL = 4;
const ZOOM_STEP = 1.3;

export function Diagram({ view, label }: { view: TreeView; label: string }) {
  const explorer = useExplorer();
  const { tree, shown, selected, found, reading } = view;
  const { tone } = reading;
  const canvas = useRef<HTMLCanvasElement>(null);
  const swatches = useRef<HTMLSpanElement>(null);
  const widthOf = useRef<((text: string) => number) | null>(null);
  const frame = useRef(0);
  const sight = useRef<Sight>({ x: 0, y: 0, zoom: 1, across: 1, width: 0, height: 0 });
  /** Whether the view still follows the drawing: until the reader moves it. */
  const follows = useRef(true);
  /** Whether some of it is out of view where it has been fitted last. */
  const cut = useSignal(false);

  const layout = useMemo(() => {
    widthOf.current ??= meter(fontOf(explorer.root));
    return layoutOf(shown, measure(shown, widthOf.current));
  }, [shown, explorer]);

  // What is drawn in the next frame, whatever asks for it first.
  const scene = useRef({ layout, selected, found, tone });
  const before = scene.current.layout;
  scene.current = { layout, selected, found, tone };
  function draw() {
    frame.current = 0;
    const element = canvas.current;
    const pen = element?.getContext("2d");
    if (!element || !pen || !swatches.current) return;
    const dots = devicePixelRatio || 1;
    const { width, height } = sight.current;
    const [across, down] = [Math.round(width * dots), Math.round(height * dots)];
    if (element.width !== across || element.height !== down) {
      element.width = across;
      element.height = down;
    }
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineJoin = "round";
    const colours = coloursOf(swatches.current);
    paint(pen, scene.current.layout, sight.current, scene.current, colours, fontOf(element));
  }
  function redraw() {
    if (!frame.current) frame.current = requestAnimationFrame(draw);
  }

  function acrossAt(zoom: number): number {
    const { right, tightest } = scene.current.layout;
    const room = sight.current.width - 2 * EDGE;
    return Math.max(zoom * tightest, Math.min(Math.max(zoom, 1), room / right[0]));
  }
  function fitAll(least = 0) {
    const { width, height } = sight.current;
    const now = scene.current.layout;
    const high = now.bottom[0] - now.top[0] + ROW;
    const wide = now.right[0] * now.tightest;
    const zoom = Math.min((width - 2 * EDGE) / wide, (height - 2 * EDGE) / high, 1);
    const own = Math.max(zoom, least, 1e-4);
    cut.value = own > zoom;
    // Where not all of it has room, the root and what is above it: the most probable.
    const y =
      high * own > height
        ? Math.max(now.top[0] - ROW, now.y[0] - (0.8 * height) / own)
        : (now.top[0] + now.bottom[0] - height / own) / 2;
    const across = acrossAt(own);
    sight.current = { ...sight.current, x: -EDGE / across, y, zoom: own, across };
    redraw();
  }
  /** Zoom about a point of the canvas that stays where it is. */
  function zoom(factor: number, px = sight.current.width / 2, py = sight.current.height / 2) {
    const { x, y, zoom: old, across: wide } = sight.current;
    const whole = scene.current.layout.bottom[0] + ROW;
    const least = Math.min(0.1, (0.5 * sight.current.height) / whole);
    const next = Math.min(Math.max(old * factor, least), MOST_ZOOM);
    const across = acrossAt(next);
    follows.current = false;
    sight.current = {
      ...sight.current,
      x: x + px / wide - px / across,
      y: y + py / old - py / next,
      zoom: next,
      across,
    };
    redraw();
  }
  function pan(dx: number, dy: number) {
    const { x, y, zoom: down, across } = sight.current;
    follows.current = false;
    sight.current = { ...sight.current, x: x - dx / across, y: y - dy / down };
    redraw();
  }
  function fit() {
    follows.current = false;
    fitAll();
  }

  useEffect(() => {
    const element = canvas.current as HTMLCanvasElement;
    const resized = new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = element;
      if (!width || !height) return; // hidden
      sight.current = { ...sight.current, width, height };
      if (follows.current) {
        fitAll(READABLE);
        bring();
      }
      redraw();
    });
    resized.observe(element);
    // The theme sets the root's color-scheme whenever the host changes its own.
    const themed = new MutationObserver(redraw);
    themed.observe(explorer.root, { attributes: true, attributeFilter: ["style"] });
    return () => {
      resized.disconnect();
      themed.disconnect();
      cancelAnimationFrame(frame.current);
    };
  }, []);

  // What the reader looks at stays where it is when the tree grows or folds around it.
  useLayoutEffect(() => {
    if (before !== layout) {
      if (follows.current || before.shown.tree.run !== tree.run) {
        follows.current = true;
        fitAll(READABLE);
      } else {
        const [from, to] = anchors(before, layout, sight.current, selected);
        sight.current.x += layout.x[to] - before.x[from];
        sight.current.y += layout.y[to] - before.y[from];
      }
    }
    redraw();
  });

  /** Move no further than it takes to see the selected node. */
  function bring() {
    const { layout: now, selected: row } = scene.current;
    const index = row < 0 ? -1 : now.shown.place[row];
    if (index < 0) return;
    const { width, height, zoom: down, across, x, y } = sight.current;
    const margin = 2 * ROW;
    const left = now.x[index] - margin;
    const right = now.x[index] + now.width[index] + margin - width / across;
    const low = now.y[index] + margin - height / down;
    sight.current.x = Math.min(Math.max(x, right), left);
    sight.current.y = Math.min(Math.max(y, low), now.y[index] - margin);
    redraw();
  }
  const brought = view.brought.value;
  const broughtFor = useRef(brought);
  useLayoutEffect(() => {
    if (broughtFor.current === brought) return;
    broughtFor.current = brought;
    follows.current = false;
    bring();
  });

  function press(event: KeyboardEvent) {
    if (pressShared(event, view, explorer, selected)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = Math.max(selected, 0);
    const siblings = at > 0 ? childrenOf(shown, tree.parent[at]) : [0];
    const children = childrenOf(shown, at);
    const own = siblings.indexOf(at);
    if (event.key === "ArrowRight") {
      if (selected < 0) view.select(0);
      else if (children.length && !shown.open[at]) view.toggle(at, true);
      else if (children.length) view.select(children[0]);
    } else if (event.key === "ArrowLeft") {
      if (at > 0) view.select(tree.parent[at]);
    } else if (event.key === "ArrowDown") {
      view.select(siblings[own + 1] ?? beside(at, 1));
    } else if (event.key === "ArrowUp") {
      view.select(siblings[own - 1] ?? beside(at, -1));
    } else if (event.key === "Home") view.select(0);
    else if (event.key === "+" || event.key === "=") zoom(ZOOM_STEP);
    else if (event.key === "-") zoom(1 / ZOOM_STEP);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  }
  /** The next node of the same depth, of other parents. */
  function beside(row: number, direction: 1 | -1): number {
    const { rows, place } = shown;
    for (let index = place[row] + direction; rows[index] !== undefined; index += direction) {
      if (tree.depth[rows[index]] === tree.depth[row]) return rows[index];
    }
    return row;
  }

  /** Index of the node at a point of the canvas, or -1. */
  function hit(px: number, py: number): number {
    const { x, y, zoom: down, across } = sight.current;
    return nodeAt(scene.current.layout, x + px / across, y + py / down, down / across);
  }

  useGestures(canvas, {
    zoom,
    pan,
    click(px, py) {
      const now = scene.current.layout;
      const index = hit(px, py);
      view.pointed.value = null;
      if (index < 0) return false;
      const row = now.shown.rows[index];
      follows.current = false;
      explorer.local.selected.value = row;
      if (now.shown.size[row] > 1) view.toggle(row);
      return true;
    },
    fit,
    point(px, py) {
      const now = scene.current.layout;
      const index = px < 0 ? -1 : hit(px, py);
      const row = index < 0 ? -1 : now.shown.rows[index];
      if ((view.pointed.value?.row ?? -1) !== row) {
        view.pointed.value = row < 0 ? null : { row, x: px, y: py };
      }
      if (canvas.current) canvas.current.style.cursor = row < 0 ? "grab" : "pointer";
    },
  });

  const hint = "Line width: log P. Drag to move, click to fold, Ctrl + wheel to zoom.";
  return (
    <div class="sae-diagram">
      {/* biome-ignore lint/a11y/noInteractiveElementToNoninteractiveRole: it takes keys */}
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-roledescription="tree diagram"
        aria-label={`${label}, as a diagram. Arrow keys walk along the tree, Enter folds, plus and minus zoom, 0 fits.`}
        onKeyDown={press}
      />
      <span class="sae-zoom">
        <Tool name="minus" label="Zoom out" onClick={() => zoom(1 / ZOOM_STEP)} />
        <Tool name="plus" label="Zoom in" onClick={() => zoom(ZOOM_STEP)} />
        <button type="button" title="Show all of it  0" onClick={fit}>
          Fit
        </button>
      </span>
      <p class="sae-hint">
        {cut.value && "Not all of it is in view: Fit, or 0, shows it. "}
        {hint}
      </p>
      <span class="sae-unseen" role="status">
        {selected >= 0 && inWords(view)}
      </span>
      <span class="sae-swatches" aria-hidden="true" ref={swatches}>
        {SWATCHES.map((name) => (
          <i key={name} data-colour={name} />
        ))}
      </span>
    </div>
  );
}

/** The selected node as a screen reader should hear it. */
function inWords(view: TreeView): string {
  const { tree, shown, selected } = view;
  const below = shown.size[selected] - 1;
  const fold = below ? `, ${shown.open[selected] ? "open" : "folded"}, ${below} below` : "";
  return `${nodeInWords(view, selected)}, depth ${tree.depth[selected]}${fold}`;
}

/** The indices of one node in two layouts: the selected one if it is in view, else the middle's. */
function anchors(from: Layout, to: Layout, sight: Sight, selected: number): [number, number] {
  const middleX = sight.x + sight.width / 2 / sight.across;
  const middleY = sight.y + sight.height / 2 / sight.zoom;
  const { rows, place } = from.shown;
  const own = selected >= 0 ? (place[selected] ?? -1) : -1;
  const away = (index: number) =>
    Math.abs(from.x[index] - middleX) * sight.across +
    Math.abs(from.y[index] - middleY) * sight.zoom;
  let best = 0;
  if (
    own >= 0 &&
    Math.abs(from.x[own] - middleX) * sight.across < sight.width / 2 &&
    Math.abs(from.y[own] - middleY) * sight.zoom < sight.height / 2
  ) {
    best = own;
  } else {
    for (let index = 1; index < rows.length; index += 1) if (away(index) < away(best)) best = index;
  }
  let row = rows[best];
  while (row > 0 && to.shown.place[row] < 0) row = to.shown.tree.parent[row];
  return [from.shown.place[row], to.shown.place[row]];
}

interface Gestures {
  zoom(factor: number, px: number, py: number): void;
  pan(dx: number, dy: number): void;
  /** Says whether a node was there. */
  click(px: number, py: number): boolean;
  fit(): void;
  /** The pointer rests at a place; negative: nowhere. */
  point(px: number, py: number): void;
}

/** Drag, pinch, wheel and click on an element. */
function useGestures(target: { current: HTMLElement | null }, gestures: Gestures): void {
  const latest = useRef(gestures);
  latest.current = gestures;
  useEffect(() => {
    const element = target.current as HTMLElement;
    const held = new Map<number, { x: number; y: number }>();
    let wandered = 0;
    let hitNode = false;
    const placeOf = (event: MouseEvent) => {
      const { left, top } = element.getBoundingClientRect();
      return { x: event.clientX - left, y: event.clientY - top };
    };
    const down = (event: PointerEvent) => {
      if (event.button !== 0) return;
      element.setPointerCapture(event.pointerId);
      held.set(event.pointerId, placeOf(event));
      // A pinch is no click, whichever finger leaves last.
      wandered = held.size > 1 ? Number.POSITIVE_INFINITY : 0;
      latest.current.point(-1, -1);
    };
    const move = (event: PointerEvent) => {
      const now = placeOf(event);
      const was = held.get(event.pointerId);
      if (!was) {
        if (event.pointerType !== "touch") latest.current.point(now.x, now.y);
        return;
      }
      held.set(event.pointerId, now);
      wandered += Math.hypot(now.x - was.x, now.y - was.y);
      if (wandered < STILL) return;
      const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
      // Of two fingers, each moves the drawing half of its own way.
      const share = other ? 0.5 : 1;
      latest.current.pan((now.x - was.x) * share, (now.y - was.y) * share);
      if (other) {
        const factor =
          Math.hypot(now.x - other.x, now.y - other.y) /
          Math.max(1, Math.hypot(was.x - other.x, was.y - other.y));
        latest.current.zoom(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
      }
    };
    const up = (event: PointerEvent) => {
      if (!held.delete(event.pointerId)) return;
      const { x, y } = placeOf(event);
      if (event.type === "pointerup" && wandered < STILL) hitNode = latest.current.click(x, y);
    };
    const wheel = (event: WheelEvent) => {
      // The page scrolls on, unless the reader means the diagram.
      const root = element.getRootNode() as Document | ShadowRoot;
      if (!event.ctrlKey && !event.metaKey && root.activeElement !== element) return;
      event.preventDefault();
      const { x, y } = placeOf(event);
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      // A pinch on a touch pad comes as small steps with ctrl.
      const speed = event.ctrlKey && Math.abs(event.deltaY) < 50 ? 0.01 : 0.0018;
      latest.current.zoom(Math.exp(-event.deltaY * lines * speed), x, y);
    };
    const double = () => {
      if (!hitNode) latest.current.fit();
    };
    const leave = () => latest.current.point(-1, -1);
    element.addEventListener("pointerdown", down);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", up);
    element.addEventListener("pointercancel", up);
    element.addEventListener("pointerleave", leave);
    element.addEventListener("dblclick", double);
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      element.removeEventListener("pointerdown", down);
      element.removeEventListener("pointermove", move);
      element.removeEventListener("pointerup", up);
      element.removeEventListener("pointercancel", up);
      element.removeEventListener("pointerleave", leave);
      element.removeEventListener("dblclick", double);
      element.removeEventListener("wheel", wheel);
    };
  }, [target]);
}

const SWATCHES = ["ground", "text", "muted", "line", "accent", "second", "match"] as const;

/** The theme's colours, as the browser works them out on elements that have them. */
function coloursOf(swatches: HTMLElement): Colours {
  const found = [...swatches.children].map((swatch) => getComputedStyle(swatch).color);
  return Object.fromEntries(SWATCHES.map((name, place) => [name, found[place]])) as Record<
    (typeof SWATCHES)[number],
    string
  >;
}

function fontOf(element: Element): string {
  return getComputedStyle(element).fontFamily || "sans-serif";
}
