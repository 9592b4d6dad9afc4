// What the outline, the diagram and the tools above them share: one selection, one set of folds.
import { type Signal, untracked, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { type Explorer, useExplorer } from "../state/context.ts";
import { childrenOf, inOrder, type Shown, show, type TreeData } from "../state/tree.ts";
import { visible } from "../text.ts";
import { copy } from "./files.ts";
import type { Pointed } from "./hover_card.tsx";
import type { Reading } from "./reading.ts";

export interface TreeView {
  /** What is read off the nodes. */
  reading: Reading;
  tree: TreeData;
  shown: Shown;
  /** Rows that match the search, as they are read. */
  matches: number[];
  found: ReadonlySet<number>;
  selected: number;
  /** What the pointer rests on. */
  pointed: Signal<Pointed | null>;
  /** Counts up when the drawing should bring the selection into sight. */
  brought: Signal<number>;
  /** Select a row, -1 for none, and open what it stands under. */
  select(row: number): void;
  /** Open or fold a row. */
  toggle(row: number, open?: boolean): void;
  /** Open a row's siblings and itself. */
  openSiblings(row: number): void;
  /** Go to the next match after the selection, or to the one before; round at the ends. */
  step(direction: 1 | -1): void;
  /** Copy the definition so far. */
  copyPath(row: number): void;
  /** Go to the search box. */
  search: { current: HTMLInputElement | null };
}

/** How many nodes about fill a screen: an outline scrolls, a diagram is seen as a whole. */
const SCREENS = { outline: 50, diagram: 20 };

/** Keys that mean the same in both drawings, of a row. Says whether it was one of them. */
export function pressShared(
  event: KeyboardEvent,
  view: TreeView,
  { local }: Explorer,
  row: number,
): boolean {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "c" && !event.shiftKey && row > 0) {
    // What the reader has marked goes before.
    if (getSelection()?.toString()) return false;
    view.copyPath(row);
  } else if (command || event.altKey) {
    return false;
  } else if (event.key === "/") {
    view.search.current?.focus();
  } else if (event.key === "*" && row >= 0) {
    view.openSiblings(row);
  } else if ((event.key === "Enter" || event.key === " ") && row >= 0) {
    if (view.shown.size[row] > 1) view.toggle(row);
  } else if (event.key === "Escape") {
    if (view.pointed.value) view.pointed.value = null;
    else if (local.query.value) local.query.value = "";
    else if (view.selected >= 0) view.select(-1);
    else return false;
  } else {
    return false;
  }
  event.preventDefault();
  return true;
}

export function useTreeView(tree: TreeData, reading: Reading): TreeView {
  const { local, synced, root } = useExplorer();
  const pointed = useSignal<Pointed | null>(null);
  const brought = useSignal(0);
  const search = useRef<HTMLInputElement>(null);

  // Rows that are not settled get other numbers while a tree grows: what was chosen goes along. In
  // another run it means nothing.
  const before = useRef(tree);
  useLayoutEffect(() => {
    const last = before.current;
    if (last === tree) return;
    before.current = tree;
    pointed.value = null;
    const now = (row: number) => (last.run === tree.run ? last.rowIn(tree, row) : -1);
    if (local.selected.value >= 0) local.selected.value = now(local.selected.value);
    if (!local.toggled.value.size) return;
    const toggled = [...local.toggled.value].map(([row, open]) => [now(row), open] as const);
    local.toggled.value = new Map(toggled.filter(([row]) => row >= 0));
  }, [tree]);

  const openAbove = local.openAbove.value;
  const toggled = local.toggled.value;
  const trim = local.trim.value;
  const quiet = local.quiet.value;
  const query = local.query.value;
  const screen = SCREENS[local.drawing.value];
  const { order, keep } = reading;
  const shown = useMemo(
    () => show(tree, { openAbove, screen, toggled, trim, quiet, order, keep }),
    [tree, openAbove, screen, toggled, trim, quiet, order, keep],
  );
  const hits = useMemo(() => tree.search(query), [tree, query]);
  const matches = useMemo(() => {
    const left = hits.filter((row) => shown.size[row]);
    if (!left.length) return left;
    const place = inOrder(tree, shown.size, shown.order);
    return left.sort((one, other) => place[one] - place[other]);
  }, [tree, hits, shown]);
  const found = useMemo(() => new Set(matches), [matches]);
  const selected = useComputed(() => local.selected.value).value;

  const open = (rows: number[]) => {
    const now = new Map(local.toggled.value);
    for (const row of rows) now.set(row, true);
    if (rows.length) local.toggled.value = now;
  };
  const select = (row: number) => {
    local.selected.value = row;
    if (row < 0) return;
    // What stands in the way of being seen: a fold above.
    open(
      [0, ...tree.path(row).slice(0, -1)].filter((above) => above !== row && !shown.open[above]),
    );
    brought.value += 1;
  };
  useSignalEffect(() => {
    const row = local.sought.value;
    if (row < 0) return;
    untracked(() => {
      // Whoever asks for it by name wants to see it, whatever was hidden before.
      if (!shown.size[row]) {
        local.trim.value = 0;
        local.quiet.value = false;
        local.leastLift.value = null;
      }
      select(row);
    });
    local.sought.value = -1;
  });

  return {
    reading,
    tree,
    shown,
    matches,
    found,
    selected: selected < tree.count && shown.size[selected] ? selected : -1,
    pointed,
    brought,
    search,
    select,
    toggle(row, wanted = !shown.open[row]) {
      local.toggled.value = new Map(local.toggled.value).set(row, wanted);
    },
    openSiblings(row) {
      open(row > 0 ? childrenOf(shown, tree.parent[row]) : [0]);
    },
    step(direction) {
      if (!matches.length) return;
      const place = inOrder(tree, shown.size, shown.order);
      const at = selected >= 0 ? place[selected] : -1;
      const next =
        direction > 0
          ? matches.find((row) => place[row] > at)
          : matches.filter((row) => place[row] < at).at(-1);
      select(next ?? (direction > 0 ? matches[0] : matches[matches.length - 1]));
    },
    copyPath(row) {
      copy(visible(tree.textOf(row)), root).catch((error: Error) => {
        synced.refusal.value = error.message;
      });
    },
  };
}
