// Everything that can be saved, and what it was made from.
import { useSignal } from "@preact/signals";
import { PANELS } from "../panels/index.ts";
import { useExplorer } from "../state/context.ts";
import type { Intervention, Payload, Value } from "../state/protocol.ts";
import { type Synced, savedAs } from "../state/synced.ts";
import { visible, visibleToken } from "../text.ts";
import { save } from "./files.ts";
import { plain } from "./format.ts";
import { interventionInWords } from "./interventions.tsx";
import { useRefuse } from "./option.ts";
import { pictureOf } from "./picture.ts";
import { Popover } from "./popover.tsx";

const FORMATS: Record<string, string> = {
  json: "JSON",
  csv: "CSV",
  nwk: "Newick",
  dot: "Graphviz DOT",
  svg: "SVG picture",
  png: "PNG picture",
  html: "HTML report",
};
const REPORT = "report.html";
const PICTURES = ["svg", "png"] as const;

interface Item {
  file: string;
  /** What it is named after. */
  about: Payload | null;
  /** What draws it here; the kernel writes all others. */
  picture?: (typeof PICTURES)[number];
}

export function ExportMenu() {
  const explorer = useExplorer();
  const { synced, root } = explorer;
  const refuse = useRefuse();
  const busy = useSignal("");
  const groups = groupsOf(synced);

  async function take({ file, picture }: Item) {
    busy.value = file;
    try {
      if (picture) {
        save(await pictureOf(picture, explorer), root);
      } else {
        const answer = await synced.ask({ type: "export", file });
        if (answer) save(answer, root);
      }
    } catch (error) {
      refuse(error as Error);
    } finally {
      busy.value = "";
    }
  }

  return (
    <Popover
      label={busy.value ? "Saving" : "Export"}
      icon="save"
      title="Save what is shown"
      role="menu"
      disabled={!groups.length}
    >
      {(close) => (
        // biome-ignore lint/a11y/noStaticElementInteractions: moves the focus among the items
        <div onKeyDown={walk}>
          {groups.map(([title, items]) => (
            // biome-ignore lint/a11y/useSemanticElements: a part of a menu
            <div key={title} role="group" aria-label={title} class="sae-menu-group">
              <div class="sae-menu-title" aria-hidden="true">
                {title}
              </div>
              {items.map((item) => (
                <button
                  type="button"
                  key={item.file}
                  role="menuitem"
                  tabIndex={-1}
                  title={savedAs(item.file, item.about)}
                  onClick={() => {
                    close();
                    void take(item);
                  }}
                >
                  <span>{FORMATS[item.file.split(".")[1]]}</span>
                  <span class="sae-menu-file">{item.file}</span>
                </button>
              ))}
            </div>
          ))}
        </div>
      )}
    </Popover>
  );
}

/** A result by the title of its panel. */
function titleOf(name: string): string {
  return PANELS.find((panel) => panel.name === name)?.title ?? name;
}

/** What can be saved, by the title that it stands under. */
function groupsOf(synced: Synced): [string, Item[]][] {
  const files = synced.files.value;
  const tree = synced.tree.value;
  const groups: Record<string, Item[]> = {};
  const put = (title: string, item: Item) => {
    groups[title] = [...(groups[title] ?? []), item];
  };
  // First, where nobody has to look for it.
  if (files.includes(REPORT)) {
    put("Everything", { file: REPORT, about: firstOf(synced) });
  }
  for (const file of files.filter((name) => name !== REPORT)) {
    const [result] = file.split(".");
    put(titleOf(result), { file, about: synced.result(result).value });
  }
  if (tree) {
    for (const picture of PICTURES) {
      put(titleOf("tree"), { file: `tree.${picture}`, about: tree, picture });
    }
  }
  return Object.entries(groups);
}

/** Arrow keys, Home and End among the items of a menu. */
function walk(event: KeyboardEvent & { currentTarget: HTMLElement }) {
  const items = [...event.currentTarget.querySelectorAll<HTMLElement>("[role=menuitem]")];
  const at = items.indexOf(event.target as HTMLElement);
  const next = {
    ArrowDown: (at + 1) % items.length,
    ArrowUp: (at - 1 + items.length) % items.length,
    Home: 0,
    End: items.length - 1,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  items[next]?.focus();
}

/** The tree, or what there is of results without it: it says what all are about. */
function firstOf({ result }: Synced): Payload | null {
  return PANELS.map(({ name }) => result(name).value).find(Boolean) ?? null;
}

/** What the results were made from. */
export function About() {
  const source = firstOf(useExplorer().synced);
  return (
    <Popover
      label="About"
      icon="info"
      title="What these results were made from"
      role="dialog"
      disabled={!source}
    >
      {() =>
        source && (
          <div class="sae-about">
            <Facts title={visible(source.label)} facts={source.request} />
            <Facts title="Model" facts={source.provenance.model} />
            <Facts title="SAE" facts={source.provenance.sae} />
            <Facts title="Versions" facts={source.provenance.versions} />
          </div>
        )
      }
    </Popover>
  );
}

function Facts({ title, facts }: { title: string; facts: Record<string, Value> | null }) {
  const known = Object.entries(facts ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!known.length) return null;
  return (
    <section>
      <h4>{title}</h4>
      <div class="sae-facts">
        {known.map(([name, value]) => (
          <div key={name}>
            <span>{name.replaceAll("_", " ")}</span>
            <span>{inWords(value)}</span>
          </div>
        ))}
      </div>
    </section>
  );
}

function inWords(value: Value): string {
  if (typeof value === "number") return plain(value);
  if (typeof value === "string") return visible(value);
  if (!Array.isArray(value)) return value ? "yes" : "no";
  // A vector would fill the screen.
  if (value.length > 8)
    return `${value.length} ${typeof value[0] === "number" ? "numbers" : "values"}`;
  return value.map(itemInWords).join(", ") || "none";
}

function itemInWords(item: number | string | Intervention): string {
  if (typeof item === "number") return plain(item);
  return typeof item === "string" ? visibleToken(item) : interventionInWords(item);
}
