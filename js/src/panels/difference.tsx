// Two trees aligned node by node: what appears, vanishes, gains and loses.
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { ExplorerContext, useExplorer } from "../state/context.ts";
import { local } from "../state/local.ts";
import type { DifferencePayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { compared, FATES, type Fate, readingOfTwo, SIGNS } from "../ui/comparison.ts";
import { Entry, helpOf, useUnique } from "../ui/controls.tsx";
import { count, numberIn, plain } from "../ui/format.ts";
import { OnRequest } from "../ui/on_request.tsx";
import { useOption } from "../ui/option.ts";
import { TreeFrame } from "./trees.tsx";

export function DifferencePanel() {
  return (
    <OnRequest<DifferencePayload>
      panel="difference"
      options={<Against />}
      empty="Grows the tree a second time with one thing changed, and lays both on top of each other: which definitions appear, vanish, gain and lose. Choose what to compare with and press Run."
    >
      {(payload) => <Difference payload={payload} />}
    </OnRequest>
  );
}

const PLAIN = "plain";
const OTHERS: [string, string][] = [
  [PLAIN, "without interventions"],
  ["weights", "with other weights"],
  ["feature", "of another feature"],
  ["scale", "at another scale"],
  ["", "with another option …"],
];

/** What the tree is compared with. */
function Against() {
  const { synced } = useExplorer();
  const choice = useOption("against");
  /** Which option it is to be, while its value is not given yet. */
  const pending = useSignal<string | null>(null);
  const help = useUnique();
  const control = synced.controls.value.find(({ name }) => name === "against");
  const disabled = synced.contact.value !== "live";
  const text = String(choice.value ?? PLAIN);
  const [name, value] = text.includes("=") ? cut(text) : [text, ""];
  const known = OTHERS.some(([word]) => word === name);
  const word = pending.value ?? (known ? name : "");
  const put = (against: string) => {
    pending.value = null;
    choice.change(against);
  };
  function pick(next: string) {
    const { weights } = synced.values.value;
    if (next === PLAIN) put(PLAIN);
    else if (next === "weights") put(`weights=${weights === "decoder" ? "encoder" : "decoder"}`);
    else pending.value = next;
  }
  const idle =
    word === PLAIN && !(synced.values.value.interventions as unknown[] | undefined)?.length;
  return (
    <div class="sae-against">
      <label>
        The tree against the one{" "}
        <select
          class="sae-select"
          aria-describedby={help}
          value={word}
          disabled={disabled}
          onChange={(event) => pick(event.currentTarget.value)}
        >
          {OTHERS.map(([option, title]) => (
            <option key={option} value={option}>
              {title}
            </option>
          ))}
        </select>
      </label>
      {word !== PLAIN && (
        <Entry
          class={word && word !== "weights" ? "sae-number" : "sae-line"}
          label={word ? `Other ${word}` : "Option and value"}
          text={pending.value !== null ? "" : word ? value : text}
          placeholder={word ? "value" : "top_k=10"}
          help={help}
          disabled={disabled}
          onCommit={(written) => {
            const given = written.trim();
            if (!word) {
              if (!/^\w+=./.test(given)) return "An option and its value are needed: top_k=10.";
              put(given);
              return null;
            }
            const number = numberIn(given);
            if (word !== "weights" && !Number.isFinite(number)) return "A number is needed.";
            put(`${word}=${word === "weights" ? given : plain(number)}`);
            return null;
          }}
        />
      )}
      {control && (
        <p class="sae-help" id={help}>
          {helpOf(control)}
        </p>
      )}
      {idle && (
        <span class="sae-note">
          There are no interventions: add one in the controls, or choose another.
        </span>
      )}
    </div>
  );
}

function cut(text: string): [string, string] {
  const at = text.indexOf("=");
  return [text.slice(0, at), text.slice(at + 1)];
}

function Difference({ payload }: { payload: DifferencePayload }) {
  const explorer = useExplorer();
  // It is read by itself: what is open and selected here is not so in the tree.
  const own = useMemo(() => ({ ...explorer, local: local() }), [explorer]);
  const chosen = useSignal<ReadonlySet<Fate>>(new Set());
  const byChange = useSignal(false);
  const comparison = useMemo(() => compared(payload), [payload]);
  const reading = useMemo(
    () => readingOfTwo(comparison, payload.names, chosen.value, byChange.value),
    [comparison, payload, chosen.value, byChange.value],
  );
  const toggle = (fate: Fate) => {
    const next = new Set(chosen.value);
    if (!next.delete(fate)) next.add(fate);
    chosen.value = next;
  };
  const tools = (
    <>
      <span class="sae-names">
        {payload.names.map((name, which) => (
          <span key={which}>
            <b>{"AB"[which]}</b> <bdi>{visible(name)}</bdi>
          </span>
        ))}
      </span>
      <label class="sae-tool">
        <input
          type="checkbox"
          title="The largest change of P first, among the tokens after one parent"
          checked={byChange.value}
          onChange={(event) => {
            byChange.value = event.currentTarget.checked;
          }}
        />
        Sort by change
      </label>
      <span class="sae-fates">
        {FATES.map((fate) => (
          <button
            type="button"
            key={fate}
            aria-pressed={chosen.value.has(fate)}
            disabled={!comparison.counts[fate] && !chosen.value.has(fate)}
            title={`Show only the nodes that are of this kind, and what leads to them: ${fate}`}
            onClick={() => toggle(fate)}
          >
            <span aria-hidden="true">{SIGNS[fate]}</span>
            {fate} <span class="sae-muted">{count(comparison.counts[fate])}</span>
          </button>
        ))}
      </span>
    </>
  );
  return (
    <ExplorerContext.Provider value={own}>
      <TreeFrame
        label={`Definition trees compared: ${payload.names.map((name) => visible(name)).join(" and ")}`}
        tree={comparison.tree}
        reading={reading}
        tools={tools}
      />
    </ExplorerContext.Provider>
  );
}
