// The frame of an analysis that runs only when it is asked for: what starts and stops it, how far it
// is, what went wrong, and below it what it has found.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useExplorer } from "../state/context.ts";
import type { Job, RequestedPayload } from "../state/protocol.ts";
import { visible } from "../text.ts";
import { Explain } from "./controls.tsx";
import { Icon } from "./icon.tsx";
import { useAsk } from "./option.ts";

interface OnRequestProps<P> {
  /** Name of the analysis in Python. */
  panel: string;
  /** Which question it answers and what to press, shown while there is no result. */
  empty: ComponentChildren;
  /** Controls of the request, above the bar; a saved copy has none. */
  options?: ComponentChildren;
  children(payload: P): ComponentChildren;
}

export function OnRequest<P extends RequestedPayload>(props: OnRequestProps<P>) {
  const { panel, empty, options, children } = props;
  const { synced } = useExplorer();
  const payload = synced.result<P>(panel).value;
  const { state } = synced.job(panel);
  const old = synced.isOld(panel);
  const saved = synced.contact.value === "saved";
  const explained = useSignal(false);
  return (
    <div class="sae-panel sae-requested" data-explained={explained.value || undefined}>
      {!saved && options && <div class="sae-asked">{options}</div>}
      <RunBar panel={panel}>{options && <Explain shown={explained} />}</RunBar>
      <div
        class="sae-result"
        data-stale={(payload && old) || undefined}
        aria-busy={state === "running"}
      >
        {payload ? (
          children(payload)
        ) : (
          <div class="sae-nothing">
            {saved ? "This copy holds none." : state === "running" ? "It has begun." : empty}
          </div>
        )}
      </div>
    </div>
  );
}

/** What runs an analysis and stops it. In a saved copy it only says what is shown. */
export function RunBar({ panel, children }: { panel: string; children?: ComponentChildren }) {
  const { synced } = useExplorer();
  const ask = useAsk();
  const job = synced.job(panel);
  const payload = synced.result<RequestedPayload>(panel).value;
  const contact = synced.contact.value;
  const running = job.state === "running";
  const known = running && job.progress !== null;
  if (contact === "saved") {
    return (
      payload && <p class="sae-run-saved">{visible(wordsOf(job, payload, synced.isOld(panel)))}</p>
    );
  }
  return (
    <div class="sae-run" data-state={job.state}>
      {running ? (
        <button
          type="button"
          aria-keyshortcuts="Escape"
          title="Stop, and keep what there is  Esc"
          // The second click of two that were meant to run it is none to stop it.
          onClick={(event) => event.detail < 2 && ask({ type: "cancel", panel })}
        >
          <Icon name="close" />
          Cancel
        </button>
      ) : (
        <button
          type="button"
          class="sae-primary"
          // What is shown answers what is set: no need to press.
          data-quiet={(payload && job.state === "done") || undefined}
          disabled={contact !== "live" || !synced.subject.value}
          onClick={() => ask({ type: "run", panel })}
        >
          {payload || job.state === "error" ? "Run again" : "Run"}
        </button>
      )}
      <span class="sae-run-text">{visible(wordsOf(job, payload, synced.isOld(panel)))}</span>
      {children}
      {/* There before it speaks, or nobody would hear it. */}
      <div role="alert" class="sae-run-alert">
        {job.state === "error" && (
          <>
            <Icon name="error" />
            <span>{visible(job.error ?? "It failed without a reason. Run it again.")}</span>
          </>
        )}
      </div>
      {running && (
        <div
          class="sae-progress"
          role="progressbar"
          aria-label="Progress"
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={known ? Math.round(100 * (job.progress as number)) : undefined}
          aria-valuetext={job.text ? visible(job.text) : undefined}
          data-known={known || undefined}
          style={{ "--sae-at": job.progress ?? 0 }}
        >
          <span />
        </div>
      )}
      <span class="sae-unseen" role="status">
        {job.state === "error" || job.state === "idle" ? "" : job.state}
      </span>
    </div>
  );
}

/** What is going on, or what it is that is shown. */
function wordsOf(job: Job, payload: RequestedPayload | null, old: boolean): string {
  if (job.state === "running") {
    return payload && old ? `${job.text}; shown: ${payload.label}, of the run before` : job.text;
  }
  if (!payload) return job.state === "error" ? "" : job.text;
  if (job.state === "error") return `Shown: ${payload.label}, of the run before.`;
  if (job.state === "stale") return `Shown: ${payload.label}, from before the last change.`;
  return shownOf(payload);
}

function shownOf({ label, status }: RequestedPayload): string {
  return status === "partial" ? `${label}, stopped before its end` : label;
}
