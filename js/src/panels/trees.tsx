// The definition tree, as an outline or as a diagram.
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { TreeData } from "../state/tree.ts";
import { visible } from "../text.ts";
import { Diagram } from "../ui/diagram.tsx";
import { count, plain } from "../ui/format.ts";
import { HoverCard, NodeFacts } from "../ui/hover_card.tsx";
import { Icon } from "../ui/icon.tsx";
import { LookNotes, LookTools } from "../ui/look_tools.tsx";
import { Outline } from "../ui/outline.tsx";
import { type Reading, readingOf } from "../ui/reading.ts";
import { TreeTools } from "../ui/tree_tools.tsx";
import { type TreeView, useTreeView } from "../ui/tree_view.ts";

export function TreePanel() {
  const { tree, status } = useExplorer().synced;
  const { state, nodes } = status.value;
  // Rows of a tree that came to nothing, and of an SAE that is not looked at any more, are none.
  if (tree.value && !(state === "error" && nodes === 0)) return <Tree tree={tree.value} />;
  if (state === "loading") return <Loading />;
  return (
    <p class="sae-nothing">
      {state === "growing"
        ? "The first tokens are on their way."
        : state === "error"
          ? "There is no tree: what went wrong, and what to do, stands above."
          : "There is no tree yet."}
    </p>
  );
}

/** What is being loaded, and how far it is: the header says the same, in small. */
function Loading() {
  const { text, progress } = useExplorer().synced.status.value;
  const known = progress !== null;
  return (
    <div class="sae-nothing">
      {visible(text)}
      <div
        class="sae-progress sae-meter"
        data-known={known || undefined}
        style={{ "--sae-at": known ? progress : 0 }}
      >
        <span />
      </div>
      The tree grows here once the model is loaded.
    </div>
  );
}

function Tree({ tree }: { tree: TreeData }) {
  const explorer = useExplorer();
  const { local, synced } = explorer;
  const { colour, byLift, leastLift } = local;
  const reading = useMemo(
    () => readingOf(tree, explorer),
    [
      tree,
      colour.value,
      byLift.value,
      leastLift.value,
      synced.result("loop").value,
      synced.job("loop").state,
      synced.status.value.state,
    ],
  );
  const alone = tree.count === 1 && synced.status.value.state !== "growing";
  return (
    <TreeFrame
      label={`Definition tree of ${visible(tree.label)}`}
      tree={tree}
      reading={reading}
      tools={<LookTools tree={tree} reading={reading} />}
      notes={<LookNotes tree={tree} />}
    >
      {alone && (
        <p class="sae-nothing sae-alone">
          {tree.status === "partial"
            ? "Growth was stopped before the first token."
            : `No answer is as probable as the cutoff, ${plain(tree.cutoff)}: lower it.`}
        </p>
      )}
    </TreeFrame>
  );
}

/** A tree to be read: tools, the drawing that is chosen, and the selected node. */
export function TreeFrame(props: {
  /** What it is the tree of. */
  label: string;
  tree: TreeData;
  reading: Reading;
  tools?: ComponentChildren;
  /** What the tools do, for those who ask. */
  notes?: ComponentChildren;
  /** What stands over the drawing. */
  children?: ComponentChildren;
}) {
  const { label, tree, reading, tools, notes, children } = props;
  const view = useTreeView(tree, reading);
  const drawn = useExplorer().local.drawing.value === "diagram";
  const pointed = view.pointed.value;
  return (
    <div class="sae-panel sae-tree">
      <TreeTools view={view} more={tools} notes={notes} />
      <div class="sae-drawing">
        {drawn ? <Diagram view={view} label={label} /> : <Outline view={view} label={label} />}
        {pointed && pointed.row < tree.count && <HoverCard view={view} at={pointed} />}
        {children}
      </div>
      <Selected view={view} />
    </div>
  );
}

/** What there is to say of the selected node. Its place is kept when there is none. */
function Selected({ view }: { view: TreeView }) {
  const { tree, selected, shown } = view;
  const left = shown.size[0];
  return (
    <section class="sae-selected" aria-label="Selected node">
      {selected < 0 ? (
        <span class="sae-muted">No node is selected.</span>
      ) : (
        <>
          <NodeFacts view={view} row={selected} />
          {selected > 0 && (
            <button
              type="button"
              title="Copy the definition so far  Ctrl + C"
              onClick={() => view.copyPath(selected)}
            >
              <Icon name="copy" /> Copy
            </button>
          )}
        </>
      )}
      <span
        class="sae-left"
        title="Nodes in the tree, those that the trim or the filter hides left out"
      >
        {left < tree.count ? `${count(left)} of ${count(tree.count)}` : count(left)} node
        {tree.count === 1 ? "" : "s"}
      </span>
    </section>
  );
}
