import { visibleToken } from "../text.ts";

/** A token's text with its spaces marked, safe to show whatever it holds. */
export function TokenChip({ text }: { text: string }) {
  const shown = visibleToken(text);
  return (
    <code class="sae-token" title={shown}>
      {/* Isolated, so that text from right to left does not reorder what is around it. */}
      {shown ? <bdi>{shown}</bdi> : <span class="sae-empty">empty</span>}
    </code>
  );
}
