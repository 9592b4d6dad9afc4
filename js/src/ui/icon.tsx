// The widget's few signs, drawn on a grid of 16 so that they look the same with every font.

const PATHS = {
  previous: "M10 3.5 5.5 8l4.5 4.5",
  next: "M6 3.5 10.5 8 6 12.5",
  random: "M2 5h2.5l6 6H14m-2-2 2 2-2 2M2 11h2.5l1.7-1.7M8.8 6.7 10.5 5H14m-2-2 2 2-2 2",
  outside: "M6.5 4H4v8h8V9.5M9 3.5h3.5V7m0-3.5L7.5 8.5",
  controls: "M2.5 5h4m4 0h3M2.5 11h2m4 0h5M8.5 3.2v3.6M6.5 9.2v3.6",
  down: "M4.5 6.5 8 10l3.5-3.5",
  close: "m4.5 4.5 7 7m0-7-7 7",
  save: "M8 2.5v7m-3-3 3 3 3-3M3 12.5h10",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  info: "M8 7.5v4M8 4.8v.2M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  plus: "M8 3.5v9M3.5 8h9",
  minus: "M3.5 8h9",
  reset: "M4 3v3.5h3.5M4.2 6.2A4.8 4.8 0 1 1 3.4 9.6",
  // States: each has a shape of its own, so that colour says nothing alone.
  loading:
    "M8 2.5v2m0 7v2m5.5-5.5h-2m-7 0h-2m9.4-3.9-1.4 1.4m-5 5-1.4 1.4m7.8 0-1.4-1.4m-5-5L4.1 4.1",
  growing: "M3 8h4m0 0 4-4h2M7 8l4 4h2M7 8h6",
  done: "m3 8.5 3.2 3.2L13 4.8",
  partial: "M8 2.5a5.5 5.5 0 1 0 5.5 5.5M8 2.5V8h5.5",
  error: "M8 2.5 14 13H2zM8 6.5v3M8 11.2v.2",
  saved: "M3.5 2.5h9v11L8 10.5l-4.5 3z",
  lost: "M3 13 13 3M5 5.5a6 6 0 0 0 0 5m6-5a6 6 0 0 1 0 5",
};

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="sae-icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
