// Copy and CSV, beside a list.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import { savedAs } from "../state/synced.ts";
import { copy, save } from "./files.ts";
import { Icon } from "./icon.tsx";
import { useRefuse } from "./option.ts";

/** How long a button says that it has copied, in milliseconds. */
const SAID = 1500;

export function TakeAway(props: {
  /** What the kernel calls the whole list, such as "tokens.csv". */
  file: string;
  /** The rows as shown, the heading first. */
  rows(): (string | number)[][];
}) {
  const { synced, root } = useExplorer();
  const copied = useSignal(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const refuse = useRefuse();

  const [result] = props.file.split(".");
  const name = savedAs(props.file, synced.result(result).value);

  async function copyRows() {
    await copy(
      props
        .rows()
        .map((row) => row.join("\t"))
        .join("\n"),
      root,
    );
    copied.value = true;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      copied.value = false;
    }, SAID);
  }

  async function saveFile() {
    const file = await synced.ask({ type: "export", file: props.file });
    if (file) save(file, root);
  }

  return (
    <span class="sae-take">
      <button
        type="button"
        title="Copy the rows as they are sorted, tab-separated"
        onClick={() => copyRows().catch(refuse)}
      >
        <Icon name={copied.value ? "done" : "copy"} />
        {copied.value ? "Copied" : "Copy"}
      </button>
      {synced.files.value.includes(props.file) && (
        <button type="button" title={`Save ${name}`} onClick={() => saveFile().catch(refuse)}>
          <Icon name="save" />
          CSV
        </button>
      )}
      <span class="sae-unseen" role="status">
        {copied.value ? "Copied" : ""}
      </span>
    </span>
  );
}
