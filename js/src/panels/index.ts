// The table of panels: one line for each analysis, by the name it has in Python.
import type { FunctionComponent } from "preact";
import { LoopPanel } from "./closed_loop.tsx";
import { DifferencePanel } from "./difference.tsx";
import { DosePanel } from "./dose_response.tsx";
import { LensPanel } from "./logit_lens.tsx";
import { ScalePanel } from "./scale_sweep.tsx";
import { SteeringPanel } from "./steering.tsx";
import { TokensPanel } from "./tokens.tsx";
import { TreePanel } from "./trees.tsx";

export interface PanelEntry {
  name: string;
  title: string;
  Panel: FunctionComponent;
  /** Where it stands: in the middle, or among the lists at the side. */
  place: "main" | "side";
  /** Whether it runs only when it is asked for. */
  onRequest?: true;
}

export const PANELS: PanelEntry[] = [
  { name: "tree", title: "Definition tree", Panel: TreePanel, place: "main" },
  {
    name: "difference",
    title: "Difference",
    Panel: DifferencePanel,
    place: "main",
    onRequest: true,
  },
  { name: "steering", title: "Steering", Panel: SteeringPanel, place: "main", onRequest: true },
  { name: "dose", title: "Dose-response", Panel: DosePanel, place: "main", onRequest: true },
  { name: "tokens", title: "Nearest tokens", Panel: TokensPanel, place: "side" },
  { name: "lens", title: "Logit lens", Panel: LensPanel, place: "side" },
  { name: "scales", title: "Scale", Panel: ScalePanel, place: "side", onRequest: true },
  { name: "loop", title: "Closed loop", Panel: LoopPanel, place: "side", onRequest: true },
];
