// Steering: the unsteered text beside the steered ones. The tokens that differ are marked,
// and behind each token stands how strongly the feature reads it.
import { type Signal, useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import type { SteeredText, SteeringPayload } from "../state/protocol.ts";
import { joinTokens, visible, visibleToken } from "../text.ts";
import { useUnique } from "../ui/controls.tsx";
import { copy } from "../ui/files.ts";
import { decimals, percent, plain } from "../ui/format.ts";
import { Icon } from "../ui/icon.tsx";
import { OnRequest } from "../ui/on_request.tsx";
import { useRefuse } from "../ui/option.ts";
import { SteeringOptions } from "../ui/steering_options.tsx";
import { TakeAway } from "../ui/take_away.tsx";

/** How much of the colour stands behind the largest activation, in per cent: text stays legible. */
const FULL = 55;
/** How long a button says that it has copied, in milliseconds. */
const SAID = 1500;

export function SteeringPanel() {
  return (
    <OnRequest<SteeringPayload>
      panel="steering"
      options={<SteeringOptions panel="steering" group="sampling" />}
      empty={
        <>
          What does the model write when the feature is pushed? Each strength gives a text beside
          the unsteered one. Press Run.
        </>
      }
    >
      {(payload) => <Texts payload={payload} />}
    </OnRequest>
  );
}

/** The name of a text, its minus a true one. */
function nameOf({ label }: SteeredText): string {
  return visible(label).replace(/(^| )-/, "$1−");
}

/** A token of one of the texts. */
interface Spot {
  text: number;
  place: number;
}

function Texts({ payload }: { payload: SteeringPayload }) {
  const { synced } = useExplorer();
  const spot = useSignal<Spot | null>(null);
  const running = synced.job("steering").state === "running";
  const { texts, largest, request } = payload;
  const read = texts.some(({ activation }) => activation !== null);
  const listed = () => [
    ["text", "place", "token", "generated", "differs", "activation"],
    ...texts.flatMap(({ label, tokens, generated, differs, activation }) =>
      tokens.map((token, place) => [
        label,
        place,
        visible(token),
        Number(generated[place]),
        Number(differs[place]),
        activation ? plain(activation[place]) : "",
      ]),
    ),
  ];
  return (
    <>
      <div class="sae-tools">
        <span class="sae-key">
          <u class="sae-differs">differs</u> from the unsteered text
        </span>
        {read && (
          <span class="sae-key" title="Activation of the feature, read by the model as it is">
            {largest > 0 ? (
              <>
                activation 0 <span class="sae-heat-scale" /> {decimals(largest, 1)}
              </>
            ) : (
              "the feature is active nowhere in these texts"
            )}
          </span>
        )}
        <span class="sae-spring" />
        <TakeAway file="steering.csv" rows={listed} />
      </div>
      <div class="sae-texts">
        {texts.map((text, index) => (
          <Text
            key={`${index} ${text.label}`}
            text={text}
            prompt={String(request.text ?? "")}
            largest={largest}
            index={index}
            spot={spot}
            writing={running && !text.ended}
          />
        ))}
      </div>
      <Reading payload={payload} spot={spot} />
    </>
  );
}

function Reading({ payload, spot }: { payload: SteeringPayload; spot: Signal<Spot | null> }) {
  return (
    <p class="sae-foot sae-reading" role="status">
      {inWords(payload, spot.value)}
    </p>
  );
}

/** What there is to say of a token, or how to point at one. */
function inWords({ texts }: SteeringPayload, spot: Spot | null): string {
  const text = spot && texts[spot.text];
  if (!spot || !text || spot.place >= text.tokens.length) {
    return "Point at a token, or go through a text with the arrow keys, to read it.";
  }
  const { tokens, generated, differs, activation, ended } = text;
  const { place } = spot;
  const probability = text.probability?.[place] ?? null;
  return [
    nameOf(text),
    visibleToken(tokens[place]) || "empty",
    generated[place] ? `token ${place}` : `token ${place}, of the prompt`,
    ended && place === tokens.length - 1 ? "ends the text" : "",
    differs[place] ? "differs" : "",
    probability === null ? "" : `p ${percent(probability)}`,
    activation ? `activation ${decimals(activation[place], 3)}` : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

function Text(props: {
  text: SteeredText;
  /** The words that the model was given. */
  prompt: string;
  index: number;
  largest: number;
  spot: Signal<Spot | null>;
  writing: boolean;
}) {
  const { text, prompt, index, largest, spot, writing } = props;
  const { tokens, generated, differs, activation, ended } = text;
  const name = nameOf(text);
  // So that a text is drawn anew only when the spot comes or goes.
  const pointed = useComputed(() => (spot.value?.text === index ? spot.value.place : -1)).value;
  const id = useUnique();
  const point = (place: number) => {
    spot.value = { text: index, place: Math.min(Math.max(place, 0), tokens.length - 1) };
  };
  const heat = (place: number) =>
    activation && largest > 0
      ? `${Math.round(FULL * Math.min(Math.max(activation[place] / largest, 0), 1))}%`
      : "0%";
  const isEnd = (place: number) => ended && place === tokens.length - 1;
  const written = () =>
    prompt + joinTokens(tokens.filter((_, place) => generated[place] && !isEnd(place)));
  function press(event: KeyboardEvent) {
    const next = {
      ArrowRight: pointed + 1,
      ArrowLeft: pointed - 1,
      Home: 0,
      End: tokens.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    point(next);
  }
  return (
    <section class="sae-text" aria-label={name}>
      <header>
        <b>{name}</b>
        <CopyText name={name} text={written} />
      </header>
      {/* A reading of the text, token by token: the arrow keys go through it. */}
      <div
        role="listbox"
        tabIndex={0}
        dir="auto"
        aria-label={`Tokens, ${name}`}
        aria-activedescendant={pointed >= 0 ? id : undefined}
        onKeyDown={press}
        onFocus={() => pointed < 0 && point(0)}
        onPointerOver={(event) => {
          const place = event.target instanceof HTMLElement && event.target.dataset.place;
          if (place) point(Number(place));
        }}
      >
        {tokens.map((token, place) => (
          // biome-ignore lint/a11y/useFocusableInteractive: the list has the focus
          <span
            key={place}
            role="option"
            id={place === pointed ? id : undefined}
            aria-selected={place === pointed}
            data-place={place}
            data-prompt={!generated[place] || undefined}
            class={differs[place] ? "sae-differs" : undefined}
            style={{ "--sae-heat": heat(place) }}
          >
            {isEnd(place) ? <span class="sae-node-end"> ∎</span> : visible(token)}
          </span>
        ))}
        {writing && <span class="sae-caret" />}
      </div>
    </section>
  );
}

function CopyText({ name, text }: { name: string; text(): string }) {
  const { root } = useExplorer();
  const refuse = useRefuse();
  const copied = useSignal(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  async function press() {
    await copy(text(), root);
    copied.value = true;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      copied.value = false;
    }, SAID);
  }
  return (
    <button
      type="button"
      class="sae-icon-button"
      aria-label={copied.value ? "Copied" : `Copy the text, ${name}`}
      title="Copy the text"
      onClick={() => press().catch(refuse)}
    >
      <Icon name={copied.value ? "done" : "copy"} />
    </button>
  );
}
