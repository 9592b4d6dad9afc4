// A range with a scale of its own: positions are whole steps, values are round numbers.
import type { Control } from "../state/protocol.ts";

/** From positions of a range, 0 to `steps`, to an option's values and back. */
export interface Scale {
  steps: number;
  value(position: number): number;
  position(value: number): number;
}

/** Steps in a factor of 10: few enough that values of two digits never make a step come to nothing. */
const STEPS_A_DECADE = 20;
/** A linear range is cut into at least so many steps, of 1, 0.1, 0.01, … */
const FEWEST_STEPS = 50;

/** The scale of an option's control; `range` narrows it. */
export function scaleOf(control: Control, range = control.slider): Scale | null {
  if (!range) return null;
  const [low, high] = range;
  if (!(high > low)) return null;
  const within = (value: number) => Math.min(Math.max(value, low), high);
  const whole = control.kind === "int";
  if (control.log) {
    const span = Math.log10(high / low);
    const steps = Math.round(span * STEPS_A_DECADE);
    return {
      steps,
      value(position) {
        const value = Number((low * 10 ** ((span * position) / steps)).toPrecision(2));
        return within(whole ? Math.round(value) : value);
      },
      position: (value) => Math.round((Math.log10(within(value) / low) / span) * steps),
    };
  }
  const step = whole ? 1 : 10 ** Math.floor(Math.log10((high - low) / FEWEST_STEPS));
  const steps = Math.round((high - low) / step);
  return {
    steps,
    value: (position) => within(Number((low + position * step).toPrecision(12))),
    position: (value) => Math.round((within(value) - low) / step),
  };
}

interface SliderProps {
  scale: Scale | null;
  value: number;
  label: string;
  /** What assistive technology says for the value. */
  text: string;
  describedby?: string | undefined;
  disabled: boolean;
  onChange(value: number): void;
}

export function Slider({
  scale,
  value,
  label,
  text,
  describedby,
  disabled,
  onChange,
}: SliderProps) {
  const steps = scale?.steps ?? 1;
  const position = scale?.position(value) ?? 0;
  return (
    <input
      type="range"
      class="sae-slider"
      min={0}
      max={steps}
      step={1}
      value={position}
      style={{ "--sae-at": position / steps }}
      aria-label={label}
      aria-valuetext={text}
      aria-describedby={describedby}
      disabled={disabled || !scale}
      onInput={(event) => {
        if (scale) onChange(scale.value(event.currentTarget.valueAsNumber));
      }}
    />
  );
}
