// The answer in a line, before anything is unfolded: how the model defines the feature, and the words
// that it raises most.
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { numbers } from "../state/columns.ts";
import { useExplorer } from "../state/context.ts";
import type { LensPayload, LoopPayload, Values } from "../state/protocol.ts";
import type { TreeData } from "../state/tree.ts";
import { visible } from "../text.ts";
import { decimals, percent } from "./format.ts";
import { same } from "./option.ts";
import { signed } from "./reading.ts";
import { TokenChip } from "./token_chip.tsx";

const DEFINITIONS = 5;
const RAISED = 6;
/** Options that say what is explored. */
const SOURCES = ["feature", "direction"];

export function Gist({ tree }: { tree: TreeData }) {
  const definitions = useMemo(() => tree.definitions(DEFINITIONS), [tree]);
  const { synced } = useExplorer();
  if (!definitions.length) return null;
  return (
    <section class="sae-gist" aria-label="In short">
      <Line title="Defined as" help="The most probable definitions, with the probability of each">
        {definitions.map(({ row, text }) => (
          <Said key={row} row={row} text={text} figure={percent(tree.cumulative[row])} />
        ))}
      </Line>
      <Raised lens={synced.result<LensPayload>("lens").value} of={tree.request} />
      <Lifted tree={tree} />
      <Fired />
    </section>
  );
}

/** A definition that leads to its place in the tree, if it has one there. */
function Said(props: { row: number | null; text: string; figure: string }) {
  const { local } = useExplorer();
  const { row, text, figure } = props;
  return (
    <button
      type="button"
      class="sae-said"
      title={`${visible(text)}\nShow it in the tree`}
      disabled={row === null}
      onClick={() => {
        local.panel.main.value = "tree";
        if (row !== null) local.sought.value = row;
      }}
    >
      <bdi>{visible(text) || "(empty)"}</bdi>
      <span>{figure}</span>
    </button>
  );
}

/** What random directions would not have said, once lift is measured: what is probable any vector may get. */
function Lifted({ tree }: { tree: TreeData }) {
  const { lift } = tree;
  const found = useMemo(() => (lift ? tree.definitions(DEFINITIONS, lift) : []), [tree, lift]);
  if (!lift || !found.length) return null;
  return (
    <Line
      title="By lift"
      help="The definitions that random directions would have said least, with their lift"
    >
      {found.map(({ row, text }) => (
        <Said key={row} row={row} text={text} figure={signed(lift[row], 1)} />
      ))}
    </Line>
  );
}

/** What the feature answers to, once the loop is closed. */
function Fired() {
  const { synced } = useExplorer();
  const loop = synced.result<LoopPayload>("loop").value;
  if (!loop || synced.isOld("loop") || synced.status.value.state === "growing") return null;
  const { definitions } = loop;
  const found = definitions
    .filter(({ activation }) => activation > 0)
    .sort((one, other) => other.activation - one.activation);
  return (
    <Line
      title="Fires on"
      help="The definitions that activate the feature most when the model reads them, with its activation (closed loop)"
    >
      {found.length ? (
        found
          .slice(0, DEFINITIONS)
          .map(({ row, text, activation }) => (
            <Said key={text} row={row} text={text} figure={decimals(activation, 2)} />
          ))
      ) : (
        <span class="sae-muted">none of its {definitions.length} definitions</span>
      )}
    </Line>
  );
}

function Raised({ lens, of }: { lens: LensPayload | null; of: Values }) {
  const rows =
    lens?.side.flatMap((side, row) =>
      side === "top" && lens.lens[row] === "normalised" ? [row] : [],
    ) ?? [];
  // While another feature's tree has not begun to grow, the lens may be ahead of it.
  const ahead = SOURCES.some((name) => !same(lens?.request[name] ?? null, of[name] ?? null));
  if (!lens || !rows.length || ahead) return null;
  const logit = numbers(lens.logit);
  return (
    <Line
      title="Raises"
      help={`The tokens whose logits are raised most, by the ${visible(lens.label)}`}
    >
      {rows.slice(0, RAISED).map((row) => (
        <span key={row} title={`logit ${decimals(logit[row], 2)}`}>
          <TokenChip text={lens.text[row]} />
        </span>
      ))}
    </Line>
  );
}

/** Not a list of terms (dl): hosts have styles of their own for those. */
function Line(props: { title: string; help: string; children: ComponentChildren }) {
  return (
    <div class="sae-gist-line">
      <span title={props.help}>{props.title}</span>
      <div>{props.children}</div>
    </div>
  );
}
