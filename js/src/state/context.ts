// What every panel is given: the shared state, and this view's own.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Local } from "./local.ts";
import type { Synced } from "./synced.ts";

export interface Explorer {
  synced: Synced;
  local: Local;
  /** The widget's root element: pop-ups go in it, since a host may keep it in a shadow root. */
  root: HTMLElement;
}

export const ExplorerContext = createContext<Explorer | null>(null);

export function useExplorer(): Explorer {
  const explorer = useContext(ExplorerContext);
  if (!explorer) throw new Error("This component stands outside the explorer.");
  return explorer;
}
