// Dose-response: what a feature does as its strength grows. All charts share one rule, and
// what stands at it is written out below.
import { useSignal } from "@preact/signals";
import type { DosePayload } from "../state/protocol.ts";
import { visible, visibleToken } from "../text.ts";
import { Chart, figure, Legend, short, Values } from "../ui/chart.tsx";
import { plain } from "../ui/format.ts";
import { OnRequest } from "../ui/on_request.tsx";
import { SteeringOptions } from "../ui/steering_options.tsx";
import { TakeAway } from "../ui/take_away.tsx";

const UNITS: Record<string, string> = {
  residual_norm: "mean norms of the residual stream",
  max_activation: "largest activations of the feature",
  absolute: "units of the activation",
};

export function DosePanel() {
  return (
    <OnRequest<DosePayload>
      panel="dose"
      options={<SteeringOptions panel="dose" group="dose" />}
      empty={
        <>
          How strongly must the feature be pushed before the model says something else, and before
          it only stammers? One batch runs many strengths. Press Run.
        </>
      }
    >
      {(payload) => <Doses payload={payload} />}
    </OnRequest>
  );
}

interface Measure {
  title: string;
  help: string;
  log?: boolean;
  lines: { name: string; values: (number | null)[] }[];
}

/** The measures that there are, in the order of their charts. */
function measuresOf(payload: DosePayload): Measure[] {
  const all: Measure[] = [
    {
      title: "Change of the next token",
      help: "KL divergence of the next token's distribution from the unsteered one, in nats",
      lines: [{ name: "KL", values: payload.kl }],
    },
    {
      title: "Entropy of the top 10",
      help: "Entropy of the ten most probable next tokens, in nats: low where the model is sure",
      lines: [{ name: "H", values: payload.entropy }],
    },
    {
      title: "Perplexity of the text",
      help: "Of the steered text under the unsteered model, on an axis in powers of 10",
      log: true,
      lines: [{ name: "PPL", values: payload.perplexity }],
    },
    {
      title: "Probability of targets",
      help: "Probability that the next token is the target",
      lines: payload.targets.map(({ token, probability }) => ({
        name: `P(${visibleToken(token)})`,
        values: probability,
      })),
    },
    {
      title: "Activation in the text",
      help: "Mean activation over the steered text, read by the model as it is",
      lines: payload.activations.map(({ feature, activation }) => ({
        name: `feature ${feature}`,
        values: activation,
      })),
    },
  ];
  return all.filter(({ lines }) =>
    lines.some(({ values }) => values.some((value) => value !== null)),
  );
}

function Doses({ payload }: { payload: DosePayload }) {
  const { strength, texts, half_norm, unit, request } = payload;
  const pointed = useSignal<number | null>(null);
  const at =
    pointed.value !== null && pointed.value < strength.length ? pointed.value : unsteered();
  const measures = measuresOf(payload);
  const columns = measures.flatMap(({ title, help, lines }) =>
    lines.map((line) => ({ ...line, help: `${title}: ${help}` })),
  );
  const marks = [{ x: 0, label: request.action === "clamp" ? "ablated" : "unsteered" }];
  if (half_norm !== null) marks.push({ x: half_norm, label: "½ norm" });

  /** Where nobody has pointed yet: at the strength nearest to none. */
  function unsteered(): number {
    const away = strength.map(Math.abs);
    return away.indexOf(Math.min(...away));
  }
  const inWords = (index: number) =>
    [
      `strength ${short(strength[index])}`,
      ...columns.map(({ name, values }) => `${name} ${figure(values[index])}`),
    ].join(", ");
  const listed = () => [
    ["strength", ...columns.map(({ name }) => name), "text"],
    ...strength.map((value, index) => [
      plain(value),
      ...columns.map(({ values }) => (values[index] === null ? "" : plain(Number(values[index])))),
      visible(texts[index] ?? ""),
    ]),
  ];

  if (!strength.length) return <p class="sae-nothing">No strength has been run yet.</p>;
  const extent = [strength[0], strength[strength.length - 1]];
  const inSight = marks.filter(({ x }) => x >= extent[0] && x <= extent[1]);
  return (
    <>
      <div class="sae-tools">
        <span class="sae-key">{`Strength in ${UNITS[unit] ?? visible(unit)}`}</span>
        <span class="sae-spring" />
        <TakeAway file="dose.csv" rows={listed} />
      </div>
      <div class="sae-charts">
        {measures.map(({ title, help, log, lines }) => (
          <figure key={title}>
            <figcaption title={help}>
              {title}
              <Legend lines={lines} at={at} />
            </figcaption>
            <Chart
              label={`${title}, by strength`}
              help={`${help}.`}
              x={strength}
              lines={lines}
              logY={log ?? false}
              marks={inSight}
              at={at}
              onPoint={(index) => {
                pointed.value = index;
              }}
              text={inWords}
            />
          </figure>
        ))}
      </div>
      <Values label="Dose-response" first="strength" x={strength} columns={columns} at={at} />
      <p class="sae-dose-note">
        {half_norm === null
          ? visible(payload.label)
          : `${visible(payload.label)} · ½ norm: strength ${short(half_norm)} adds half the mean norm of the residual stream`}
      </p>
      <section class="sae-dose" aria-label="At the strength that is pointed at">
        <dl class="sae-node-figures">
          <div>
            <dt>strength</dt>
            <dd>{short(strength[at])}</dd>
          </div>
          {columns.map(({ name, help, values }) => (
            <div key={name} title={help}>
              <dt>
                <bdi>{name}</bdi>
              </dt>
              <dd>{figure(values[at])}</dd>
            </div>
          ))}
        </dl>
        {texts[at] !== undefined && (
          <p class="sae-dose-text" dir="auto">
            <span class="sae-muted">{visible(String(request.text ?? ""))}</span>
            {visible(texts[at])}
          </p>
        )}
      </section>
    </>
  );
}
