// The table of panels: one line for each analysis, by the name it has in Python.
import type { FunctionComponent } from "preact";
import { LensPanel } from "./logit_lens.tsx";
import { TokensPanel } from "./tokens.tsx";
import { TreePanel } from "./trees.tsx";

export interface PanelEntry {
  name: string;
  title: string;
  Panel: FunctionComponent;
}

export const PANELS: PanelEntry[] = [
  { name: "tree", title: "Definition tree", Panel: TreePanel },
  { name: "tokens", title: "Nearest tokens", Panel: TokensPanel },
  { name: "lens", title: "Logit lens", Panel: LensPanel },
];
