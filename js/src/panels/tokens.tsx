// Nearest tokens: ranked here, so that the exponent's slider answers within a frame.
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { numbers } from "../state/columns.ts";
import { useExplorer } from "../state/context.ts";
import type { TokensPayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { Entry, Explain, labelOf, Option, useUnique } from "../ui/controls.tsx";
import { count, decimals, numberIn, plain } from "../ui/format.ts";
import { Formula } from "../ui/formula.tsx";
import { same, useOption } from "../ui/option.ts";
import { Slider, scaleOf } from "../ui/slider.tsx";
import { type Sorting, sorted, Table, type TableColumn } from "../ui/table.tsx";
import { TakeAway } from "../ui/take_away.tsx";
import { TokenChip } from "../ui/token_chip.tsx";

/** The smallest denominator: fp32's rounding, as in analyses/tokens.py. */
const SMALLEST = 1.1920929e-7;

export interface Ranking {
  /** The tokens' places in the payload, the nearest first. */
  order: number[];
  /** By place in the payload. */
  ratio: Float64Array;
}

/** Rank a payload's tokens at an exponent; equal ratios are in order of token id. */
export function rank(payload: TokensPayload, exponent: number): Ranking {
  const id = numbers(payload.token_id);
  const cosine = numbers(payload.cosine);
  const centroid = numbers(payload.centroid_cosine);
  const ratio = Float64Array.from(
    cosine,
    (value, place) => (1 - value) ** exponent / Math.max(1 - centroid[place], SMALLEST),
  );
  const order = Array.from(ratio, (_, place) => place)
    .sort((one, other) => ratio[one] - ratio[other] || id[one] - id[other])
    .slice(0, payload.limit);
  return { order, ratio };
}

export function TokensPanel() {
  const payload = useExplorer().synced.result<TokensPayload>("tokens").value;
  if (!payload) return <p class="sae-nothing">The nearest tokens appear here.</p>;
  return <Tokens payload={payload} />;
}

function Tokens({ payload }: { payload: TokensPayload }) {
  const { synced } = useExplorer();
  const exponent = useOption("exponent");
  const sorting = useSignal<Sorting>({ key: "rank", falling: false });
  const find = useSignal("");
  const help = useUnique();

  const live = synced.contact.value === "live";
  const [least, most] = payload.exponents;
  const asked = typeof exponent.value === "number" ? exponent.value : payload.exponent;
  // Beyond that range other tokens may rank: what is shown waits for the kernel.
  const holds = asked >= least && asked <= most ? asked : payload.exponent;
  const { order, ratio } = useMemo(() => rank(payload, holds), [payload, holds]);
  const columns = useMemo(() => columnsOf(payload, order, ratio), [payload, order, ratio]);

  const wanted = find.value.toLowerCase();
  const { key, falling } = sorting.value;
  const rows = useMemo(() => {
    const found = wanted
      ? order.filter((place) => payload.text[place].toLowerCase().includes(wanted))
      : order;
    return sorted(found, columns.find((column) => column.key === key) as TableColumn, falling);
  }, [payload, order, columns, wanted, key, falling]);

  const control = synced.controls.value.find((entry) => entry.name === "exponent");
  const slider = control?.slider ?? payload.exponents;
  const scale =
    control && scaleOf(control, [Math.max(slider[0], least), Math.min(slider[1], most)]);

  const listed = () => [
    ["rank", "token", "ratio", "cosine", "centroid_cosine", "token_id"],
    ...rows.map((place) =>
      columns.map(({ key, value }) =>
        key === "token" ? visible(payload.text[place]) : value(place),
      ),
    ),
  ];

  return (
    <div class="sae-panel sae-tokens">
      <Formula exponent={holds} />
      <div class="sae-exponent">
        <span class="sae-label" title={control?.help}>
          Exponent <i>m</i>
        </span>
        <p class="sae-unseen" id={help}>
          {control?.help}
        </p>
        <Slider
          scale={scale ?? null}
          value={asked}
          label="Exponent"
          text={plain(asked)}
          describedby={help}
          disabled={false}
          onChange={exponent.change}
        />
        <Entry
          class="sae-number"
          inputMode="decimal"
          label="Exponent"
          text={plain(asked)}
          help={help}
          disabled={!scale}
          onCommit={(text) => {
            const value = numberIn(text);
            if (!Number.isFinite(value)) return "This is no number.";
            if (!live && (value < least || value > most)) {
              return `Without a kernel it can be ${plain(least)} to ${plain(most)}.`;
            }
            exponent.change(value);
            return null;
          }}
        />
      </div>
      <Filters />
      <div class="sae-tools">
        <input
          type="search"
          class="sae-find"
          placeholder="Find in the list"
          aria-label="Find in the list"
          value={find.value}
          onInput={(event) => {
            find.value = event.currentTarget.value;
          }}
          onKeyDown={(event) => {
            if (event.key === "Escape" && find.value) {
              event.stopPropagation();
              find.value = "";
            }
          }}
        />
        <TakeAway file="tokens.csv" rows={listed} />
      </div>
      <Table
        label="Nearest tokens"
        columns={columns}
        rows={rows}
        sorting={sorting.value}
        onSort={(next) => {
          sorting.value = next;
        }}
        empty={wanted ? "No token in the list holds this." : "No token passes the filters."}
      />
      <p class="sae-foot">{`${count(rows.length)} of ${count(payload.candidates)} tokens`}</p>
    </div>
  );
}

function columnsOf(payload: TokensPayload, order: number[], ratio: Float64Array): TableColumn[] {
  const id = numbers(payload.token_id);
  const cosine = numbers(payload.cosine);
  const centroid = numbers(payload.centroid_cosine);
  const ranks = new Int32Array(ratio.length);
  order.forEach((place, index) => {
    ranks[place] = index + 1;
  });
  return [
    {
      key: "rank",
      title: "#",
      help: "Rank by the ratio",
      width: "40px",
      numeric: true,
      value: (place) => ranks[place],
      cell: (place) => ranks[place],
    },
    {
      key: "token",
      title: "token",
      help: "The token's text, ␣ for a space",
      width: "auto",
      numeric: false,
      value: (place) => payload.text[place],
      cell: (place) => <TokenChip text={payload.text[place]} />,
    },
    {
      key: "ratio",
      title: "ratio",
      help: "The formula's value: the lower, the nearer",
      width: "56px",
      numeric: true,
      value: (place) => ratio[place],
      cell: (place) => decimals(ratio[place], 4),
    },
    {
      key: "cosine",
      title: "cos v",
      help: "Cosine with the ghost vector",
      width: "54px",
      numeric: true,
      value: (place) => cosine[place],
      cell: (place) => decimals(cosine[place], 3),
    },
    {
      key: "centroid",
      title: "cos μ",
      help: "Cosine with the mean embedding",
      width: "54px",
      numeric: true,
      value: (place) => centroid[place],
      cell: (place) => decimals(centroid[place], 3),
    },
    {
      key: "id",
      title: "id",
      help: "The token's number in the vocabulary",
      width: "54px",
      numeric: true,
      value: (place) => id[place],
      cell: (place) => id[place],
    },
  ];
}

/** Which tokens are ranked at all: the request's own options but the exponent. */
function Filters() {
  const { synced } = useExplorer();
  const open = useSignal(false);
  const explained = useSignal(false);
  const controls = synced.controls.value.filter(
    ({ group, name }) => group === "tokens" && name !== "exponent",
  );
  const changed = controls.filter(
    ({ name, default: usual }) => !same(synced.values.value[name] ?? null, usual),
  );
  if (!controls.length) return null;
  return (
    <details
      class="sae-filters"
      open={open.value}
      onToggle={(event) => {
        open.value = event.currentTarget.open;
      }}
    >
      <summary>
        Filters
        <span class="sae-active">
          {changed.length ? changed.map(({ name }) => labelOf(name)).join(", ") : "none active"}
        </span>
      </summary>
      {open.value && (
        <div class="sae-filter-list" data-explained={explained.value || undefined}>
          {controls.map((control) => (
            <Option key={control.name} control={control} />
          ))}
          <Explain shown={explained} />
        </div>
      )}
    </details>
  );
}
