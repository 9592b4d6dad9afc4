// What a tree says beyond its probabilities: lift, and activations of the closed loop.
import { useExplorer } from "../state/context.ts";
import { COLOURS, type Colour } from "../state/local.ts";
import type { TreeData } from "../state/tree.ts";
import { plain } from "./format.ts";
import { colourOf, measuresOf, type Reading, signed } from "./reading.ts";
import { type Scale, Slider } from "./slider.tsx";

/** Steps of the slider in 1 of lift. */
const STEPS = 10;

const LIFT =
  "Lift compares each path with what random directions of the same length make of it, as a logarithm: 0 is what any vector would give, +2.3 ten times as probable.";
const ACTIVATION =
  "Activation is what the feature answers when the model reads the definition so far, measured by the closed loop.";

export function LookTools({ tree, reading }: { tree: TreeData; reading: Reading }) {
  const explorer = useExplorer();
  const { colour, byLift, leastLift } = explorer.local;
  const measures = measuresOf(tree, explorer);
  const shown = colourOf(colour.value, measures);
  const { lift, activation } = measures;
  // One colour is no choice; the notes say how to come by others.
  if (!lift && !activation) return null;
  return (
    <>
      <label class="sae-tool">
        Colour by{" "}
        <select
          class="sae-select"
          aria-label="Colour by"
          value={shown}
          onChange={(event) => {
            colour.value = event.currentTarget.value as Colour;
          }}
        >
          {COLOURS.map((word) => (
            <option
              key={word}
              value={word}
              disabled={word !== "probability" && measures[word] === null}
            >
              {word}
            </option>
          ))}
        </select>
      </label>
      {reading.strongest !== null && <Legend colour={shown} strongest={reading.strongest} />}
      {lift && (
        <>
          <label class="sae-tool">
            <input
              type="checkbox"
              title="The largest lift first, among the tokens after one parent"
              checked={byLift.value}
              onChange={(event) => {
                byLift.value = event.currentTarget.checked;
              }}
            />
            Sort by lift
          </label>
          <LeastLift lift={lift} value={leastLift} />
        </>
      )}
    </>
  );
}

/** What lift and activation are, and how to come by them. */
export function LookNotes({ tree }: { tree: TreeData }) {
  const measures = measuresOf(tree, useExplorer());
  return (
    <p>
      {LIFT}{" "}
      {!measures.lift && "There is none yet: set Lift in the controls, 8 random directions. "}
      {ACTIVATION}
      {!measures.activation && " There is none of this tree yet: run the Closed loop."}
    </p>
  );
}

/** Which colour says what. */
function Legend({ colour, strongest }: { colour: Colour; strongest: number }) {
  const both = colour === "lift";
  const most = Number(strongest.toPrecision(2));
  return (
    <span class="sae-tones" data-both={both || undefined}>
      {both ? signed(-most, 1) : "0"}
      <i aria-hidden="true" />
      {both ? signed(most, 1) : plain(most)}
    </span>
  );
}

function LeastLift(props: { lift: Float32Array; value: { value: number | null } }) {
  const { lift, value } = props;
  const scale = liftScale(lift);
  const least = value.value;
  const text = least === null ? "off" : signed(least, 1);
  return (
    <span
      class="sae-tool sae-trim sae-least"
      title="Hide nodes of less lift than this, unless something below them has it"
    >
      <span aria-hidden="true">Hide lift below</span>
      <Slider
        scale={scale}
        value={least ?? Number.NEGATIVE_INFINITY}
        label="Hide lift below"
        text={least === null ? "nothing hidden" : text}
        disabled={!scale}
        onChange={(next) => {
          value.value = next === Number.NEGATIVE_INFINITY ? null : next;
        }}
      />
      <output class="sae-trimmed">{text}</output>
    </span>
  );
}

/** From nothing hidden over the least lift of a tree to its largest. */
function liftScale(lift: Float32Array): Scale | null {
  let [low, high] = [0, 0];
  for (const value of lift) {
    if (Math.abs(value) < 100) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  const first = Math.floor(low * STEPS);
  const steps = Math.floor(high * STEPS) - first + 1;
  if (steps < 2) return null;
  return {
    steps,
    value: (position) => (position ? (first + position - 1) / STEPS : Number.NEGATIVE_INFINITY),
    position: (value) => Math.min(steps, Math.max(0, Math.round(value * STEPS) - first + 1)),
  };
}
