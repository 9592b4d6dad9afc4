// What there is to say of one node: beside the pointer, and below the tree for the selected one.
import { useLayoutEffect, useRef } from "preact/hooks";
import type { TreeData } from "../state/tree.ts";
import { visible, visibleToken } from "../text.ts";
import { plain } from "./format.ts";
import type { TreeView } from "./tree_view.ts";

/** A token's text, its spaces marked but dim, so that words stand out. */
export function Token({ tree, row }: { tree: TreeData; row: number }) {
  if (row === 0) return <bdi>{visible(tree.prompt)}</bdi>;
  if (tree.endsText(row)) return <span class="sae-node-end">∎ end</span>;
  const text = tree.tokenText(row);
  // A real ␣ is not dim.
  const pieces = visible(text).split(" ");
  return (
    <>
      {text ? (
        <bdi>
          {pieces.map((piece, place) => (
            <>
              {place > 0 && <span class="sae-space">␣</span>}
              {piece}
            </>
          ))}
        </bdi>
      ) : (
        <span class="sae-empty">empty</span>
      )}
      {tree.isEnd(row) && <span class="sae-node-end"> ∎</span>}
      {tree.isOpenTip(row) && <span class="sae-node-end"> …</span>}
    </>
  );
}

/** A node in one line, for those who do not see it; a line of the outline says the same. */
export function nodeInWords({ tree, reading }: TreeView, row: number): string {
  if (row === 0) return `prompt ${visible(tree.prompt)}`;
  const figures = reading.figures.map(({ name, title, text }) => `${title ?? name} ${text(row)}`);
  return [inWords(tree, row), ...figures].join(", ");
}

function inWords(tree: TreeData, row: number): string {
  if (tree.endsText(row)) return "end of text";
  const token = visibleToken(tree.tokenText(row)) || "empty token";
  return token + asideOf(tree, row);
}

/** What the sign after a token means. */
export function asideOf(tree: TreeData, row: number): string {
  if (!row || tree.endsText(row)) return "";
  return tree.isEnd(row) ? ", closes the answer" : tree.isOpenTip(row) ? ", may go on" : "";
}

/** The figures of a node. */
export function NodeFacts({ view, row }: { view: TreeView; row: number }) {
  const { tree, reading } = view;
  const facts: [string, string, string][] = [
    ...reading.figures.map(
      ({ name, help, text, exact }) =>
        [name, help, (exact ?? text)(row)] as [string, string, string],
    ),
    ["depth", "Number of tokens after the prompt", plain(tree.depth[row])],
    ["id", "The token's number in the vocabulary", plain(tree.tokenId(row))],
  ];
  const text = visible(tree.textOf(row));
  return (
    <>
      <code class="sae-node-token">
        <Token tree={tree} row={row} />
      </code>
      <dl class="sae-node-figures">
        {facts.slice(0, row ? undefined : 1).map(([name, title, value]) => (
          <div key={name} title={title}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {row > 0 && (
        <bdi class="sae-node-text" title={text}>
          {text}
        </bdi>
      )}
    </>
  );
}

/** A place in the panel: what is pointed at, by its corner that the card should not cover. */
export interface Pointed {
  row: number;
  x: number;
  y: number;
}

/** Distance from what is pointed at. */
const AWAY = 14;

/** A card beside what is pointed at, within the box that it stands in. */
export function HoverCard({ view, at }: { view: TreeView; at: Pointed }) {
  const card = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const element = card.current as HTMLDivElement;
    const box = element.offsetParent ?? element;
    const left = Math.min(at.x + AWAY, box.clientWidth - element.offsetWidth - 4);
    const below = at.y + AWAY;
    const over = below + element.offsetHeight > box.clientHeight;
    const top = over ? at.y - AWAY - element.offsetHeight : below;
    element.style.left = `${Math.max(4, left)}px`;
    element.style.top = `${Math.max(4, top)}px`;
  });
  return (
    <div class="sae-card" ref={card} aria-hidden="true">
      <NodeFacts view={view} row={at.row} />
    </div>
  );
}
