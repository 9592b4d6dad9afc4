// The sweep over scales: where along the length of the direction the tree says most.
import { useSignal } from "@preact/signals";
import { useExplorer } from "../state/context.ts";
import type { ScalesPayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { Chart, short, Values } from "../ui/chart.tsx";
import { ControlGroup } from "../ui/controls.tsx";
import { plain } from "../ui/format.ts";
import { OnRequest } from "../ui/on_request.tsx";

export function ScalePanel() {
  return (
    <OnRequest<ScalesPayload>
      panel="scales"
      options={
        <details class="sae-settings">
          <summary>Settings</summary>
          <ControlGroup group="scales" title="" />
        </details>
      }
      empty="Tries many lengths of the direction, and measures at which the model's answer is about the direction and still says something. Press Run; then click a point to take its scale."
    >
      {(payload) => <Scales payload={payload} />}
    </OnRequest>
  );
}

/** How near two scales stand, as a logarithm, for their words to meet. */
const NEAR = 0.45;

/** The one that decides first: there may be no room for all of them. */
const MEASURES = [
  ["composite", "Composite", "What the other two come to: the best scale has the largest."],
  [
    "self_similarity",
    "Self-similarity",
    "Cosine between the direction and the residual stream where the answer begins: how much of it comes through.",
  ],
  [
    "cross_entropy",
    "Cross-entropy",
    "Of the answer's first token to what the mean embedding is answered, in nats: how far it has left what the prompt makes likely.",
  ],
] as const;

function Scales({ payload }: { payload: ScalesPayload }) {
  const { synced } = useExplorer();
  const pointed = useSignal<number | null>(null);
  const { scale, best, caveat, answers } = payload;
  const set = synced.values.value.scale ?? synced.subject.value?.effective.scale;
  const grown = synced.tree.value?.scale ?? null;
  const shown = typeof set === "number" ? set : set === "auto" ? grown : payload.shown;
  const live = synced.contact.value === "live";
  // Another sweep may have fewer points.
  const at = Math.min(pointed.value ?? best, scale.length - 1);
  if (at < 0) return <p class="sae-nothing">No scale has been tried yet.</p>;
  const use = (index: number) => synced.set({ scale: scale[index] });
  const marks = [{ x: scale[best], label: "best" }];
  if (shown !== null && shown !== scale[best]) {
    // Two words in one place could not be read.
    const apart = Math.abs(Math.log(shown / scale[best])) > NEAR;
    const within = shown >= scale[0] && shown <= scale[scale.length - 1];
    if (within) marks.push({ x: shown, label: apart ? "in use" : "" });
  }
  const own = shown !== null && Math.abs(scale[at] - shown) < 1e-6 * shown;
  return (
    <div class="sae-sweep">
      {MEASURES.map(([name, title, help]) => (
        <section key={name} aria-label={title}>
          <h4>
            {title} <b>{short(payload[name][at])}</b>
          </h4>
          <Chart
            label={`${title} by scale`}
            help={help}
            x={scale}
            lines={[{ name: title, values: payload[name] }]}
            logX
            marks={marks}
            at={at}
            onPoint={(index) => {
              pointed.value = index;
            }}
            {...(live ? { onChoose: use } : {})}
            text={(index) =>
              `scale ${short(scale[index])}, ${MEASURES.map(([key, word]) => `${word} ${short(payload[key][index])}`).join(", ")}, answer ${visible(answers[index] ?? "")}${index === best && caveat ? `. ${caveat}` : ""}`
            }
          />
        </section>
      ))}
      <Values
        label="Scales"
        first="scale"
        x={scale}
        columns={MEASURES.map(([key, name]) => ({ name, values: payload[key] }))}
        at={at}
      />
      <p class="sae-note">
        Composite: 0.4 × self-similarity − 0.6 × cross-entropy, each stretched to 0 … 1.
      </p>
      <div class="sae-answer">
        <p>
          <span>
            {`Scale ${short(scale[at])}`}
            {at === best && ", the best"}
            {own && ", in use"}
          </span>
          <bdi>{visible(answers[at] ?? "") || "–"}</bdi>
          {at === best && <span>{caveat}</span>}
        </p>
        {live && (
          // Not disabled, or who has pressed it would lose the focus.
          <button type="button" aria-disabled={own} onClick={() => own || use(at)}>
            {`Use scale ${plain(Number(scale[at].toPrecision(3)))}`}
          </button>
        )}
      </div>
    </div>
  );
}
