// The closed loop: does the feature answer to the definitions that its tree gives?
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { LoopPayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { ControlGroup } from "../ui/controls.tsx";
import { count, decimals, percent, plain } from "../ui/format.ts";
import { OnRequest } from "../ui/on_request.tsx";
import { measuresOf } from "../ui/reading.ts";
import { type Sorting, sorted, Table, type TableColumn } from "../ui/table.tsx";
import { TakeAway } from "../ui/take_away.tsx";

export function LoopPanel() {
  return (
    <OnRequest<LoopPayload>
      panel="loop"
      options={
        <details class="sae-settings">
          <summary>Settings</summary>
          <ControlGroup group="loop" title="" />
        </details>
      }
      empty="Reads each definition of the tree as text, and measures how strongly the feature answers to it; definitions grown from random directions show what chance gives. Press Run."
    >
      {(payload) => <Loop payload={payload} />}
    </OnRequest>
  );
}

function Loop({ payload }: { payload: LoopPayload }) {
  const { definitions, random } = payload;
  const sorting = useSignal<Sorting>({ key: "activation", falling: true });
  const columns = useMemo(() => columnsOf(payload), [payload]);
  const { key, falling } = sorting.value;
  const rows = useMemo(
    () =>
      sorted(
        definitions.map((_, row) => row),
        columns.find((column) => column.key === key) as TableColumn,
        falling,
      ),
    [definitions, columns, key, falling],
  );
  const listed = () => [
    ["definition", "probability", "activation"],
    ...rows.map((row) => [
      visible(definitions[row].text),
      definitions[row].probability,
      definitions[row].activation,
    ]),
  ];
  return (
    <div class="sae-panel sae-loop">
      <Score payload={payload} />
      <Distributions payload={payload} />
      <div class="sae-tools">
        <ColourButton />
        <span class="sae-spring" />
        <TakeAway file="loop.csv" rows={listed} />
      </div>
      <Table
        label="Definitions and how the feature answers"
        columns={columns}
        rows={rows}
        sorting={sorting.value}
        onSort={(next) => {
          sorting.value = next;
        }}
        empty="The tree has no definition that could be read."
      />
      <p class="sae-foot">
        {`${count(definitions.length)} definitions, ${count(random.length)} random; read as ${visible(payload.template)}`}
      </p>
    </div>
  );
}

const AUROC =
  "How often a definition of the tree has the larger activation of the two, when it is compared with one of a random direction (AUROC).";

/** The score with its interval, as a bar from 0 to 1 and in words. */
function Score({ payload }: { payload: LoopPayload }) {
  const { score, low, high } = payload;
  if (score === null) {
    return (
      <p class="sae-note sae-score">
        There is no score: it needs definitions of the tree and of random directions.
      </p>
    );
  }
  const known = low !== null && high !== null;
  const interval = known ? `, 95 % interval ${decimals(low, 2)} to ${decimals(high, 2)}` : "";
  return (
    <div class="sae-score">
      <p title={AUROC}>
        <b>{decimals(score, 2)}</b>
        {` AUROC${interval}; 0.5 is chance.`}
        {known && low <= 0.5 && high >= 0.5 && " It may be chance."}
      </p>
      <p class="sae-help">{AUROC}</p>
      <div class="sae-score-bar" aria-hidden="true">
        {known && (
          <span class="sae-score-range" style={{ left: part(low), right: part(1 - high) }} />
        )}
        <span class="sae-score-chance" />
        <span class="sae-score-point" style={{ left: part(score) }} />
      </div>
      <div class="sae-ends" aria-hidden="true">
        <span>0</span>
        <span>chance</span>
        <span>1</span>
      </div>
    </div>
  );
}

function part(share: number): string {
  return `${100 * Math.min(1, Math.max(0, share))}%`;
}

/** Bars of the histogram. */
const BINS = 24;

/** Activations of both kinds of definitions: the tree's upwards, those of chance downwards. */
function Distributions({ payload }: { payload: LoopPayload }) {
  const groups = [payload.definitions, payload.random].map((group) =>
    group.map(({ activation }) => activation),
  );
  const most = Math.max(...groups.flat(), 0);
  const shares = groups.map((values) => histogram(values, most));
  const highest = Math.max(...shares.flat(), Number.MIN_VALUE);
  const medians = groups.map((values) => (values.length ? decimals(median(values), 2) : "–"));
  const words = `Median activation ${medians[0]} for the tree's definitions, ${medians[1]} for those of random directions`;
  return (
    <figure class="sae-spread">
      <svg viewBox={`0 0 ${BINS} 2`} preserveAspectRatio="none" role="img" aria-label={words}>
        {shares.map((bins, which) =>
          bins.map((share, bin) =>
            share ? (
              <rect
                key={`${which}-${bin}`}
                class={which ? "sae-chance" : "sae-own"}
                x={bin + 0.06}
                y={which ? 1 : 1 - share / highest}
                width={0.88}
                height={share / highest}
              />
            ) : null,
          ),
        )}
        <path d={`M0 1H${BINS}`} vector-effect="non-scaling-stroke" />
      </svg>
      <div class="sae-ends" aria-hidden="true">
        <span>0</span>
        <span>activation</span>
        <span>{most > 0 && plain(Number(most.toPrecision(2)))}</span>
      </div>
      <figcaption>
        <span>
          <i class="sae-own" /> above: the tree's, median {medians[0]}
        </span>
        <span>
          <i class="sae-chance" /> below: of random directions, {medians[1]}
        </span>
      </figcaption>
    </figure>
  );
}

/** Shares of the values by bin. */
function histogram(values: number[], most: number): number[] {
  const bins: number[] = new Array(BINS).fill(0);
  for (const value of values) {
    bins[Math.min(BINS - 1, Math.floor((Math.max(value, 0) / (most || 1)) * BINS))] +=
      1 / values.length;
  }
  return bins;
}

function median(values: number[]): number {
  const rising = [...values].sort((one, other) => one - other);
  const half = rising.length >> 1;
  return rising.length % 2 ? rising[half] : (rising[half - 1] + rising[half]) / 2;
}

/** Shows in the tree what was measured, as long as it is of that tree. */
function ColourButton() {
  const explorer = useExplorer();
  const { local, synced } = explorer;
  const { colour } = local;
  const tree = synced.tree.value;
  const there = tree !== null && measuresOf(tree, explorer).activation !== null;
  return (
    <button
      type="button"
      disabled={!there}
      title={
        there
          ? "Colour each node by the activation that its text was measured to have"
          : "What was measured is of another tree than the one shown: run it again"
      }
      onClick={() => {
        colour.value = "activation";
        local.panel.main.value = "tree";
      }}
    >
      Colour the tree
    </button>
  );
}

function columnsOf({ definitions }: LoopPayload): TableColumn[] {
  return [
    {
      key: "text",
      title: "definition",
      help: "What the tree says; … where it may go on",
      width: "auto",
      numeric: false,
      value: (row) => definitions[row].text,
      cell: (row) => {
        const { text, complete } = definitions[row];
        const shown = visible(text) + (complete || text.endsWith("…") ? "" : " …");
        return <bdi title={shown}>{shown}</bdi>;
      },
    },
    {
      key: "P",
      title: "P",
      help: "Probability of the definition in the tree",
      width: "62px",
      numeric: true,
      value: (row) => definitions[row].probability,
      cell: (row) => percent(definitions[row].probability),
    },
    {
      key: "activation",
      title: "activation",
      help: "Activation of the feature where the definition is read",
      width: "96px",
      numeric: true,
      value: (row) => definitions[row].activation,
      cell: (row) => decimals(definitions[row].activation, 2),
    },
  ];
}
