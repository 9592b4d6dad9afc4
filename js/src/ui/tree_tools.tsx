// The tools above the tree: which drawing, what is searched for, how much of the tree is seen.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useExplorer } from "../state/context.ts";
import { Segments, useUnique } from "./controls.tsx";
import { count, exactPercent, percent, plain } from "./format.ts";
import { Icon } from "./icon.tsx";
import { type Scale, Slider } from "./slider.tsx";
import type { TreeView } from "./tree_view.ts";

const DRAWINGS = ["outline", "diagram"] as const;
/** Depths of opening by probability; the empty one chooses by itself. */
const OPENINGS: [string, string][] = [
  ["", "auto"],
  ["Infinity", "root"],
  ...[0.1, 0.01, 0.001, 0.0001, 0.00001].map((P): [string, string] => [String(P), percent(P)]),
  ["0", "all"],
];
const STEPS_A_DECADE = 20;

/** What the tools do, the same for the pointer and for those who have none. */
const HELP = {
  "Open to": "Opens nodes at least this probable (P).",
  Trim: "Hides nodes less probable (P) than this.",
  "Hide quotes": "Hides tokens that are empty or only close the quotation, and what follows them.",
};

export function TreeTools(props: {
  view: TreeView;
  /** Of this tree. */
  more?: ComponentChildren;
  /** What these do. */
  notes?: ComponentChildren;
}) {
  const { view, more, notes } = props;
  const explained = useSignal(false);
  const help = useUnique();
  const { local } = useExplorer();
  const { tree } = view;
  const open = (above: number | null) => {
    local.openAbove.value = above;
    local.toggled.value = new Map();
  };
  const scale = trimScale(tree.cutoff);
  const trim = local.trim.value;
  return (
    <div class="sae-tools sae-tree-tools" role="toolbar" aria-label="Tree">
      <Segments
        label="Drawing"
        words={DRAWINGS}
        value={local.drawing.value}
        onChange={(drawing) => {
          local.drawing.value = drawing;
        }}
      />
      <Search view={view} />
      <span class="sae-tool">
        <label>
          Open to{" "}
          <select
            class="sae-select"
            title={HELP["Open to"]}
            value={local.openAbove.value === null ? "" : String(local.openAbove.value)}
            onChange={({ currentTarget: { value } }) => open(value === "" ? null : Number(value))}
          >
            {OPENINGS.map(([value, name]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
          </select>
        </label>
      </span>
      <span class="sae-tool sae-trim" title={HELP.Trim}>
        <span aria-hidden="true">Trim</span>
        <Slider
          scale={scale}
          value={trim}
          label="Trim: hide nodes less probable than"
          text={trim > tree.cutoff ? exactPercent(trim) : "nothing hidden"}
          disabled={!scale}
          onChange={(value) => {
            local.trim.value = value;
          }}
        />
        <output class="sae-trimmed">{trim > tree.cutoff ? exactPercent(trim) : "off"}</output>
      </span>
      <label class="sae-tool">
        <input
          type="checkbox"
          title={HELP["Hide quotes"]}
          checked={local.quiet.value}
          onChange={(event) => {
            local.quiet.value = event.currentTarget.checked;
          }}
        />
        Hide quotes
      </label>
      {more}
      <button
        type="button"
        class="sae-icon-button"
        aria-label="What do the columns say?"
        title="What do the columns and these tools say and do?"
        aria-expanded={explained.value}
        aria-controls={help}
        onClick={() => {
          explained.value = !explained.value;
        }}
      >
        <Icon name="info" />
      </button>
      <div class="sae-note sae-explained" id={help} hidden={!explained.value}>
        <ul>
          {view.reading.figures.map(({ name, title, help: said }) => (
            <li key={name}>
              <b>{title ?? name}</b> {said}
            </li>
          ))}
          {Object.entries(HELP).map(([name, said]) => (
            <li key={name}>
              <b>{name}</b> {said}
            </li>
          ))}
        </ul>
        {notes}
      </div>
    </div>
  );
}

/** From the tree's cutoff, where nothing is hidden, to 1. */
function trimScale(cutoff: number): Scale | null {
  if (!(cutoff < 1)) return null;
  const steps = Math.ceil(-Math.log10(cutoff) * STEPS_A_DECADE);
  return {
    steps,
    value: (position) => (position ? Number((cutoff ** (1 - position / steps)).toPrecision(2)) : 0),
    position: (value) =>
      value > cutoff ? Math.round((1 - Math.log(value) / Math.log(cutoff)) * steps) : 0,
  };
}

function Search({ view }: { view: TreeView }) {
  const { local } = useExplorer();
  const { matches, selected } = view;
  const query = local.query.value;
  const at = matches.indexOf(selected) + 1;
  const none = !matches.length;
  return (
    <search class="sae-tool sae-search">
      <input
        type="search"
        class="sae-find"
        placeholder="Search  /"
        aria-label="Search the definitions"
        aria-keyshortcuts="/"
        title="Enter: next match; Shift + Enter: the one before; Escape: end"
        spellcheck={false}
        autocomplete="off"
        ref={view.search}
        value={query}
        onInput={(event) => {
          local.query.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" || event.key === "F3") view.step(event.shiftKey ? -1 : 1);
          else if (event.key === "Escape" && query) local.query.value = "";
          else return;
          event.preventDefault();
        }}
      />
      <span class="sae-matches" role="status">
        {query && (none ? "no match" : `${at ? plain(at) : "–"} / ${count(matches.length)}`)}
      </span>
      <Tool name="previous" label="Previous match" disabled={none} onClick={() => view.step(-1)} />
      <Tool name="next" label="Next match" disabled={none} onClick={() => view.step(1)} />
    </search>
  );
}

/** A button with a sign alone. */
export function Tool(props: {
  name: Parameters<typeof Icon>[0]["name"];
  label: string;
  disabled?: boolean;
  onClick(): void;
}) {
  return (
    <button
      type="button"
      class="sae-icon-button"
      aria-label={props.label}
      title={props.label}
      disabled={props.disabled}
      onClick={props.onClick}
    >
      <Icon name={props.name} />
    </button>
  );
}
