// Logit lens: the tokens that the direction raises and lowers most.
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { numbers } from "../state/columns.ts";
import { useExplorer } from "../state/context.ts";
import type { LensPayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { Segments } from "../ui/controls.tsx";
import { decimals, plain } from "../ui/format.ts";
import { TakeAway } from "../ui/take_away.tsx";
import { TokenChip } from "../ui/token_chip.tsx";

const LENSES = ["normalised", "raw"] as const;
const SIDES = ["top", "bottom"] as const;

export function LensPanel() {
  const payload = useExplorer().synced.result<LensPayload>("lens").value;
  if (!payload) return <p class="sae-nothing">The logit lens reads a feature or a vector.</p>;
  return <Lens payload={payload} />;
}

function Lens({ payload }: { payload: LensPayload }) {
  const lens = useSignal<(typeof LENSES)[number]>("normalised");
  const logit = useMemo(() => numbers(payload.logit), [payload]);
  const id = useMemo(() => numbers(payload.token_id), [payload]);
  const rowsOf = (side: string) =>
    payload.side.flatMap((own, row) =>
      own === side && payload.lens[row] === lens.value ? [row] : [],
    );
  const blocks = SIDES.map((side) => ({ side, rows: rowsOf(side) }));
  const largest = Math.max(
    ...blocks.flatMap(({ rows }) => rows.map((row) => Math.abs(logit[row]))),
    Number.MIN_VALUE,
  );

  const listed = () => [
    ["lens", "side", "rank", "token", "logit", "token_id"],
    ...blocks.flatMap(({ side, rows }) =>
      rows.map((row, place) => [
        lens.value,
        side,
        place + 1,
        visible(payload.text[row]),
        plain(logit[row]),
        id[row],
      ]),
    ),
  ];

  return (
    <div class="sae-panel sae-lens">
      <div class="sae-tools">
        <Segments
          label="Reading"
          words={LENSES}
          value={lens.value}
          onChange={(word) => {
            lens.value = word;
          }}
        />
        <span class="sae-spring" />
        <TakeAway file="lens.csv" rows={listed} />
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard */}
      <section class="sae-lens-lists" tabIndex={0} aria-label="Logit lens">
        {blocks.map(({ side, rows }) => (
          <table key={side} aria-label={`${side}, ${lens.value}`}>
            <thead>
              <tr>
                <th scope="col">{side === "top" ? "raised" : "lowered"}</th>
                <th scope="col" data-numeric>
                  logit
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.map((row) => (
                <tr key={row} title={`token ${id[row]}`}>
                  <td>
                    <TokenChip text={payload.text[row]} />
                  </td>
                  <td data-numeric>
                    {decimals(logit[row], 2)}
                    <span
                      class="sae-diverging"
                      data-negative={logit[row] < 0 || undefined}
                      style={{ "--sae-size": Math.abs(logit[row]) / largest }}
                    />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        ))}
      </section>
      <p class="sae-foot">
        {visible(payload.label)}
        {lens.value === "normalised" ? ", after the model's final norm" : ", as it is"}
      </p>
    </div>
  );
}
