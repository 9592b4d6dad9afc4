// How much of what scrolls is in sight; on paper, all of it.
import { type ReadonlySignal, useSignal } from "@preact/signals";
import { options, type RefObject } from "preact";
import { useEffect } from "preact/hooks";

/** The height of an element in pixels; 0 until it is known, Infinity while the page is printed. */
export function useRoom(box: RefObject<HTMLElement | null>): ReadonlySignal<number> {
  const height = useSignal(0);
  useEffect(() => {
    const element = box.current as HTMLElement;
    const measure = () => {
      height.value = element.clientHeight;
    };
    const all = () => {
      // Drawn at once: Firefox prints what stands there when this listener returns.
      options.debounceRendering = (draw) => draw();
      height.value = Number.POSITIVE_INFINITY;
      delete options.debounceRendering;
    };
    const watch = new ResizeObserver(measure);
    watch.observe(element);
    addEventListener("beforeprint", all);
    addEventListener("afterprint", measure);
    return () => {
      watch.disconnect();
      removeEventListener("beforeprint", all);
      removeEventListener("afterprint", measure);
    };
  }, [box, height]);
  return height;
}
