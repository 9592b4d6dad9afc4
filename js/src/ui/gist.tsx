// The answer in a line, before anything is unfolded: how the model defines the feature, and the words
// that it raises most.
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { numbers } from "../state/columns.ts";
import { useExplorer } from "../state/context.ts";
import type { LensPayload, Values } from "../state/protocol.ts";
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
  const { local, synced } = useExplorer();
  const order = local.byLift.value ? tree.lift : null;
  const definitions = useMemo(() => tree.definitions(DEFINITIONS, order), [tree, order]);
  if (!definitions.length) return null;
  return (
    <section class="sae-gist" aria-label="In short">
      <Line
        title={order ? "By lift" : "Defined as"}
        help={
          order
            ? "The definitions that random directions would have said least, with their lift"
            : "The most probable definitions, with the probability of each"
        }
      >
        {definitions.map(({ row, text }) => (
          <button
            key={row}
            type="button"
            class="sae-said"
            title="Show it in the tree"
            onClick={() => {
              local.panel.main.value = "tree";
              local.sought.value = row;
            }}
          >
            <bdi>{visible(text) || "(empty)"}</bdi>
            <span>{order ? signed(order[row], 1) : percent(tree.cumulative[row])}</span>
          </button>
        ))}
      </Line>
      <Raised lens={synced.result<LensPayload>("lens").value} of={tree.request} />
    </section>
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
