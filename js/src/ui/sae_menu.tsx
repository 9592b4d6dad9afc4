// Chooses among the SAEs of a subject and of its release; one that is not there yet is loaded.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useExplorer } from "../state/context.ts";
import { visible } from "../text.ts";
import { useRefuse } from "./option.ts";

/** Marks what has to be fetched first. */
const LATER = "\u2193";

/** With the keyboard one passes others on the way: how long to wait for the last, in milliseconds. */
const PAUSE = 600;

export function SAEMenu() {
  const { synced } = useExplorer();
  const refuse = useRefuse();
  /** The place of the one that was chosen, until it is there or is not to be. */
  const chosen = useSignal<number | null>(null);
  const asking = useSignal(false);
  const byKey = useRef(false);
  const pause = useRef<{ timer: number; send: () => void } | null>(null);
  const waiting = asking.value || synced.status.value.state === "loading";
  useEffect(() => {
    if (!waiting) chosen.value = null;
  });
  const subject = synced.subject.value;
  const contact = synced.contact.value;
  if (!subject || contact === "saved" || subject.saes.length < 2) return null;
  const { saes } = subject;
  const layers = [...new Set(saes.map(({ layer }) => layer))];
  const grouped = layers.length < saes.length;
  const present = saes.findIndex(
    ({ release, sae_id }) => release === subject.release && sae_id === subject.sae,
  );

  function choose(place: number) {
    const { release, sae_id } = saes[place];
    chosen.value = place;
    asking.value = true;
    const send = () => {
      pause.current = null;
      synced
        .ask({ type: "select", release, sae_id })
        .catch(refuse)
        .finally(() => {
          asking.value = pause.current !== null;
        });
    };
    if (pause.current) window.clearTimeout(pause.current.timer);
    if (byKey.current) pause.current = { timer: window.setTimeout(send, PAUSE), send };
    else send();
  }

  function hurry() {
    if (!pause.current) return;
    window.clearTimeout(pause.current.timer);
    pause.current.send();
  }

  return (
    <select
      class="sae-select"
      aria-label="SAE"
      title={`SAE; ${LATER} is loaded when chosen`}
      value={`${(waiting ? chosen.value : null) ?? present}`}
      disabled={contact !== "live"}
      onPointerDown={() => {
        byKey.current = false;
      }}
      onKeyDown={(event) => {
        byKey.current = true;
        if (event.key === "Enter") hurry();
      }}
      onBlur={hurry}
      onChange={(event) => choose(Number(event.currentTarget.value))}
    >
      {layers.map((layer) => {
        const options = saes.map(
          (sae, place) =>
            sae.layer === layer && (
              <option key={place} value={`${place}`}>
                {visible(grouped ? sae.label : nameOf(layer, sae.sae_id)) +
                  (sae.held ? "" : ` ${LATER}`)}
              </option>
            ),
        );
        if (!grouped) return options;
        return (
          <optgroup key={layer} label={nameOf(layer, "no layer")}>
            {options}
          </optgroup>
        );
      })}
    </select>
  );
}

function nameOf(layer: number | null, otherwise: string): string {
  return layer === null ? otherwise : `layer ${layer}`;
}
