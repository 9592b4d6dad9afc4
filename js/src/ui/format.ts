// Numbers as text, the same everywhere and whatever the reader's locale: a figure that is copied
// from the widget can be found in the exported files.

/** What a strength of 1 is, beside a number; strengths themselves are in Python's words. */
export const UNITS: Record<string, string> = {
  absolute: "activation units",
  max_activation: "× largest activation",
  residual_norm: "× residual norm",
};

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number of things: "8,192". */
export function count(value: number): string {
  return WHOLE.format(value);
}

/** A probability as Python's tree_formats.percent has it: "12.3 %", "0.82 %", "0.0031 %", "<0.0001 %". */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (value >= 10) return `${value.toFixed(1)} %`;
  if (value >= 0.1) return `${value.toFixed(2)} %`;
  if (value >= 0.001) return `${value.toPrecision(2)} %`;
  if (value >= 0.0001) return `${value.toFixed(4)} %`;
  return value > 0 ? "<0.0001 %" : "0 %";
}

/** A probability where it stands alone: never less than two of its digits. */
export function exactPercent(probability: number): string {
  const value = 100 * probability;
  return value >= 0.001 || value === 0 ? percent(probability) : `${value.toExponential(1)} %`;
}

/** Seconds: "0.051 s", "1.2 s", "1,234 s". */
export function duration(seconds: number): string {
  return `${seconds < 10 ? plain(Number(seconds.toPrecision(2))) : count(seconds)} s`;
}

/** A number with no digit that does not count: "3.8", "5e-5", "0.125". */
export function plain(value: number): string {
  const size = Math.abs(value);
  const short = Number(value.toPrecision(6));
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return short.toExponential().replace("e+", "e");
  return String(short);
}

/** A number in a column of its like: as many decimals in each row, and a true minus. */
export function decimals(value: number, places: number): string {
  const text = Math.abs(value) < 1e4 ? value.toFixed(places) : value.toExponential(2);
  return text.replace("-", "−").replace("e+", "e");
}

/** The number that a text says, thousands set off or not; NaN if it says none. */
export function numberIn(text: string): number {
  const bare = text.trim().replace("−", "-");
  if (/^-?\d{1,3}(,\d{3})+$/.test(bare)) return Number(bare.replaceAll(",", ""));
  return bare === "" ? Number.NaN : Number(bare);
}
