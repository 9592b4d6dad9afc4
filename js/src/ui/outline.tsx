// The tree as an outline: one line a node, only those in view drawn.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import { childrenOf } from "../state/tree.ts";
import { visible } from "../text.ts";
import { asideOf, Token } from "./hover_card.tsx";
import { useRoom } from "./room.ts";
import { pressShared, type TreeView } from "./tree_view.ts";

/** Height of a line, as in the stylesheet (--sae-row). */
const LINE = 24;
/** Lines drawn above and below the view. */
const MARGIN = 10;
/** Height taken before the real one is known, and where a host draws us unseen. */
const UNKNOWN = 480;
/** How long the pointer rests on a line before its card shows, in milliseconds. */
const REST = 250;

/** Letters typed within this time are one word, in milliseconds. */
const TYPING = 700;

export function Outline({ view, label }: { view: TreeView; label: string }) {
  const explorer = useExplorer();
  const { tree, shown, selected } = view;
  const { rows, place } = shown;
  const box = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useRoom(box);
  const grab = useRef(false);

  // What the reader looks at stays where it is, whatever grows or folds above it.
  const last = useRef({ shown, anchor: 0 });
  useLayoutEffect(() => {
    const element = box.current as HTMLDivElement;
    const before = last.current;
    if (before.shown !== shown && before.shown.tree.run === tree.run) {
      let row = before.anchor;
      while (row > 0 && place[row] < 0) row = tree.parent[row];
      const moved = place[row] - before.shown.place[before.anchor];
      if (moved && before.anchor) element.scrollTop += moved * LINE;
    }
    last.current = { shown, anchor: anchorOf(element.scrollTop) };
  });
  function anchorOf(from: number): number {
    const at = selected >= 0 ? place[selected] * LINE : -1;
    if (at >= from && at < from + (height.peek() || UNKNOWN)) return selected;
    return rows[Math.min(rows.length - 1, Math.floor(from / LINE))];
  }

  const brought = view.brought.value;
  const shownFor = useRef(-1);
  useLayoutEffect(() => {
    if (shownFor.current === brought || selected < 0) return;
    shownFor.current = brought;
    const element = box.current as HTMLDivElement;
    const at = place[selected] * LINE;
    const room = (element.clientHeight || UNKNOWN) - LINE; // without the heading
    if (at < element.scrollTop) element.scrollTop = at;
    else if (at + LINE > element.scrollTop + room) element.scrollTop = at + LINE - room;
    top.value = element.scrollTop;
  });
  useLayoutEffect(() => {
    if (!grab.current) return;
    grab.current = false;
    box.current?.querySelector<HTMLElement>("[role=treeitem][tabindex='0']")?.focus({
      preventScroll: true,
    });
  });

  // Redrawn when another line comes into view, not with every pixel.
  const first = useComputed(() =>
    height.value === Number.POSITIVE_INFINITY
      ? 0
      : Math.max(0, Math.floor(top.value / LINE) - MARGIN),
  ).value;
  const beyond = first + Math.ceil((height.value || UNKNOWN) / LINE) + 2 * MARGIN;
  const drawn = Array.from(rows.subarray(first, beyond));
  const current = selected >= 0 && place[selected] >= 0 ? selected : 0;
  // The line that has the focus is kept, or the focus would be lost when it scrolls away.
  if (!drawn.includes(current)) drawn.push(current);

  function go(row: number) {
    grab.current = true;
    view.select(row);
  }

  function press(event: KeyboardEvent) {
    if (pressShared(event, view, explorer, current)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = place[current];
    const page = Math.max(1, Math.floor((height.value || UNKNOWN) / LINE) - 2);
    const line = (index: number) => rows[Math.min(Math.max(index, 0), rows.length - 1)];
    const children = childrenOf(shown, current);
    if (event.key === "ArrowDown") go(line(selected < 0 ? 0 : at + 1));
    else if (event.key === "ArrowUp") go(line(at - 1));
    else if (event.key === "PageDown") go(line(at + page));
    else if (event.key === "PageUp") go(line(at - page));
    else if (event.key === "Home") go(rows[0]);
    else if (event.key === "End") go(rows[rows.length - 1]);
    else if (event.key === "ArrowRight") {
      if (children.length && !shown.open[current]) view.toggle(current, true);
      else if (children.length) go(children[0]);
    } else if (event.key === "ArrowLeft") {
      if (children.length && shown.open[current]) view.toggle(current, false);
      else if (current > 0) go(tree.parent[current]);
    } else if (!typed(event)) return;
    event.preventDefault();
  }

  /** To the next line in sight whose token begins with what is typed. Says whether it was a letter. */
  const word = useRef({ text: "", at: 0 });
  function typed({ key, timeStamp }: KeyboardEvent): boolean {
    if (!/^[\p{L}\p{N}]$/u.test(key)) return false;
    const { text, at } = word.current;
    const begun = timeStamp - at < TYPING ? text : "";
    const wanted = begun + key.toLowerCase();
    word.current = { text: wanted, at: timeStamp };
    // What is being typed may be the token at hand; a new word begins below it.
    const from = place[current] + (begun ? 0 : 1);
    const found = Array.from(rows, (_, index) => rows[(from + index) % rows.length]).find(
      (row) => row > 0 && tree.tokenText(row).trimStart().toLowerCase().startsWith(wanted),
    );
    if (found !== undefined) go(found);
    return true;
  }

  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  function point(event: PointerEvent) {
    clearTimeout(timer.current);
    const line = (event.target as Element).closest<HTMLElement>("[data-row]");
    const panel = box.current?.parentElement;
    if (!line || !panel || event.pointerType === "touch" || event.buttons) {
      view.pointed.value = null;
      return;
    }
    const row = Number(line.dataset.row);
    const around = panel.getBoundingClientRect();
    const at = { row, x: event.clientX - around.left, y: event.clientY - around.top };
    if (view.pointed.value?.row === row) return;
    view.pointed.value = null;
    timer.current = setTimeout(() => {
      view.pointed.value = at;
    }, REST);
  }
  function leave() {
    clearTimeout(timer.current);
    view.pointed.value = null;
  }

  const deepest = Number(tree.request.max_depth) || 25;
  return (
    <div
      class="sae-outline"
      ref={box}
      style={{ "--sae-figures": view.reading.figures.map(({ width }) => width).join(" ") }}
      onScroll={(event) => {
        top.value = event.currentTarget.scrollTop;
        last.current.anchor = anchorOf(top.value);
        leave();
      }}
      onPointerMove={point}
      onPointerLeave={leave}
    >
      <div class="sae-outline-head" aria-hidden="true">
        <span>token</span>
        {view.reading.figures.map(({ name, title, help, bar }) => (
          <span key={name} class="sae-share" title={help}>
            {bar && <i>log bar</i>}
            {title ?? name}
          </span>
        ))}
        <span title="What the path says">definition so far</span>
      </div>
      <div
        role="tree"
        aria-label={label}
        class="sae-outline-lines"
        style={{ height: `${rows.length * LINE}px`, "--sae-deepest": deepest }}
        onKeyDown={press}
      >
        {drawn.map((row) => (
          <Line key={row} row={row} view={view} tabbed={row === current} onPick={go} />
        ))}
      </div>
    </div>
  );
}

function Line(props: { row: number; view: TreeView; tabbed: boolean; onPick(row: number): void }) {
  const { row, view, tabbed, onPick } = props;
  const { tree, shown, selected, found, reading } = view;
  const siblings = row > 0 ? childrenOf(shown, tree.parent[row]) : [0];
  const inner = shown.size[row] > 1;
  const open = inner && shown.open[row] === 1;
  const depth = tree.depth[row];
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the tree's keys do the same
    <div
      role="treeitem"
      class="sae-line-of-tree"
      data-row={row}
      data-found={found.has(row) || undefined}
      tabIndex={tabbed ? 0 : -1}
      aria-level={depth + 1}
      aria-setsize={siblings.length}
      aria-posinset={siblings.indexOf(row) + 1}
      aria-selected={row === selected}
      aria-expanded={inner ? open : undefined}
      style={{ transform: `translateY(${shown.place[row] * LINE}px)`, "--sae-depth": depth }}
      onClick={() => onPick(row)}
      onDblClick={() => {
        if (inner) view.toggle(row);
      }}
    >
      <span class="sae-node">
        <span class="sae-indent" />
        <span
          class="sae-twisty"
          aria-hidden="true"
          data-open={inner ? open : undefined}
          onDblClick={(event) => event.stopPropagation()}
          onClick={(event) => {
            if (!inner) return;
            event.stopPropagation();
            view.toggle(row);
          }}
        />
        <code class="sae-node-token" {...tinted(reading.tone(row))}>
          <Token tree={tree} row={row} />
        </code>
        <span class="sae-unseen">{asideOf(tree, row)}</span>
      </span>
      {reading.figures.map(({ name, title, text, bar }) => (
        <span key={name} class="sae-share">
          {bar && <span class="sae-share-bar" style={{ "--sae-size": bar(row) }} />}
          <span class="sae-unseen">, {title ?? name} </span>
          {text(row)}
        </span>
      ))}
      {/* Whoever hears the tree has come this way. */}
      <span class="sae-so-far" aria-hidden="true">
        <bdi>{visible(tree.textOf(row))}</bdi>
      </span>
    </div>
  );
}

/** The background of what has a colour. */
export function tinted(tone: number) {
  if (!tone) return {};
  return { "data-tone": tone > 0 ? "more" : "less", style: { "--sae-tone": Math.abs(tone) } };
}
