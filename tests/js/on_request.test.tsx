import { act } from "preact/test-utils";
import { afterEach, describe, expect, test } from "vitest";
import { click, press, type Shown, show, write } from "./explorer.tsx";
import { dosePayload, job, REQUESTED, steered, steeringPayload } from "./requested.ts";

let shown: Shown;
afterEach(() => shown.close());

const bar = () => {
  const found = [...shown.el.querySelectorAll<HTMLElement>("[role=tabpanel]")].find((element) =>
    document
      .getElementById(element.getAttribute("aria-labelledby") ?? "")
      ?.textContent?.startsWith("Steering"),
  );
  return found?.querySelector(".sae-run") as HTMLElement;
};
const result = () => bar().parentElement?.querySelector(".sae-result") as HTMLElement;
const say = async (state: Record<string, unknown>, kept: Record<string, unknown> = {}) => {
  shown = await show({ ...REQUESTED, _jobs: { steering: job(state) }, ...kept });
};
const partial = (payload: unknown) =>
  act(async () => shown.model.tell({ type: "partial", panel: "steering", payload }));
const jobs = (state: Record<string, unknown>) =>
  act(async () => shown.model.set("_jobs", { steering: job(state) }));

describe("an analysis that runs on request", () => {
  test("says what it answers, and runs when it is asked to", async () => {
    await say({});
    expect(result().textContent).toContain("Press Run.");
    await click(bar().querySelector("button") as HTMLElement);
    expect(shown.asked("run")).toMatchObject([{ panel: "steering" }]);
  });

  test.each([
    ["known", 0.3, "30"],
    ["unknown", null, null],
  ])("can be cancelled while it runs, its progress %s", async (_, progress, now) => {
    await say({ state: "running", text: "token 12 of 40", progress });
    const meter = bar().querySelector("[role=progressbar]") as HTMLElement;
    expect(meter.getAttribute("aria-valuenow")).toBe(now);
    expect(bar().textContent).toContain("token 12 of 40");
    await click(bar().querySelector("button") as HTMLElement);
    expect(shown.asked("cancel")).toMatchObject([{ panel: "steering" }]);
    await press(result(), "Escape");
    expect(shown.asked("cancel").length).toBe(2);
  });

  test("is not stopped by the second click of two that were to run it", async () => {
    await say({ state: "running" });
    const button = bar().querySelector("button") as HTMLElement;
    await act(async () => {
      button.dispatchEvent(new MouseEvent("click", { bubbles: true, detail: 2 }));
    });
    expect(shown.asked("cancel")).toEqual([]);
  });

  test("an error stands in its place, with what to do, and the result of before stays", async () => {
    const error = "max_tokens is 5000, but the model reads 2048 tokens. Give fewer. <b>";
    await say({ state: "error", error }, { _steering: steeringPayload() });
    expect(bar().querySelector("[role=alert]")?.textContent).toBe(error);
    expect(bar().textContent).toContain("Shown: feature 302, of the run before.");
    expect(result().querySelector(".sae-texts")).not.toBeNull();
    expect(shown.find(".sae-header [role=alert]").textContent).toBe("");
  });

  test("a stale result says what it is about, and is dimmed", async () => {
    await say({ state: "stale" }, { _steering: steeringPayload() });
    expect(bar().textContent).toContain("Shown: feature 302, from before the last change.");
    expect(result().dataset.stale).toBe("true");
    await jobs({ state: "done" });
    expect(result().dataset.stale).toBeUndefined();
  });

  test("a partial result says that it is one", async () => {
    await say({ state: "partial" }, { _steering: steeringPayload({ status: "partial" }) });
    expect(bar().textContent).toContain("feature 302, stopped before its end");
  });

  test("a saved copy shows the result without the options and the bar", async () => {
    shown = await show({ ...REQUESTED, _saved: true, _dose: dosePayload() });
    const found = shown.find(".sae-charts").closest(".sae-requested") as HTMLElement;
    expect(found.querySelector(".sae-run, .sae-asked")).toBeNull();
    expect(found.querySelector(".sae-run-saved")?.textContent).toBe("feature 302");
  });

  test("a saved copy says of a result that it answers other options", async () => {
    await say({ state: "stale" }, { _saved: true, _steering: steeringPayload() });
    const found = shown.find(".sae-texts").closest(".sae-requested") as HTMLElement;
    expect(found.querySelector(".sae-run-saved")?.textContent).toBe(
      "Shown: feature 302, from before the last change.",
    );
    expect(found.querySelector<HTMLElement>(".sae-result")?.dataset.stale).toBe("true");
  });

  test("nothing can be asked while there is no model", async () => {
    await say({}, { _subject: null });
    expect(bar().querySelector("button")?.disabled).toBe(true);
  });
});

describe("what comes while it runs", () => {
  const texts = () => result().textContent ?? "";
  const begun = steeringPayload({
    texts: [steered("unsteered", ["So", " far"])],
    status: "partial",
  });

  test("is shown until the whole is there", async () => {
    await say({ state: "running" }, { _steering: steeringPayload() });
    expect(texts()).toContain("barks");
    // Which is of the run before, and says so.
    expect(result().dataset.stale).toBe("true");
    expect(bar().textContent).toContain("shown: feature 302, of the run before");
    await partial(begun);
    expect(result().dataset.stale).toBeUndefined();
    expect(bar().textContent).not.toContain("of the run before");
    expect(texts()).toContain("So far");
    expect(texts()).not.toContain("barks");
    await act(async () => {
      shown.model.set("_steering", steeringPayload({ texts: [steered("unsteered", ["All"])] }));
    });
    await jobs({ state: "done" });
    expect(texts()).toContain("All");
  });

  test("goes with a run that failed", async () => {
    await say({ state: "running" }, { _steering: steeringPayload() });
    await partial(begun);
    await jobs({ state: "error", error: "Out of memory." });
    expect(texts()).toContain("barks");
    await jobs({ state: "running" });
    expect(texts()).toContain("barks");
  });

  test("is not taken from a run that has ended", async () => {
    await say({ state: "done" }, { _steering: steeringPayload() });
    await partial(begun);
    expect(texts()).toContain("barks");
    await jobs({ state: "running" });
    await partial(begun);
    expect(texts()).toContain("So far");
  });
});

describe("options", () => {
  const values = () => shown.asked("set").map(({ values }) => values);

  test("the text is sent when its field is left, and with Ctrl + Enter it runs", async () => {
    await say({});
    const field = bar().parentElement?.querySelector("textarea") as HTMLTextAreaElement;
    await write(field, "The dog");
    expect(values()).toEqual([]);
    await act(async () => {
      field.dispatchEvent(
        new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true }),
      );
    });
    expect(shown.model.sent.slice(-2)).toMatchObject([
      { type: "set", values: { text: "The dog" } },
      { type: "run", panel: "steering" },
    ]);
  });

  test("Escape takes back what was written, and cancels nothing", async () => {
    await say({ state: "running" });
    const field = bar().parentElement?.querySelector("textarea") as HTMLTextAreaElement;
    await write(field, "The dog", "Escape");
    expect(field.value).toBe("I think that");
    expect(shown.asked("cancel")).toEqual([]);
  });

  test.each([
    ["strengths", "2, -1", { strengths: [-1, 0.5, 1, 2] }],
    ["strengths", "1", { strengths: [0.5, 1] }],
    ["features read", "17 9", { watched: [17, 9] }],
    ["targets", " dog, cat", { targets: [" dog, cat"] }],
  ])("%s take %j", async (name, text, expected) => {
    await say({});
    await write(shown.named(`Add to ${name}`), text, "Enter");
    expect(values()).toEqual([expected]);
  });

  test.each([
    ["strengths", "much", "A number is needed, such as 0.5."],
    ["features read", "1.5", "Whole numbers are needed, such as 17."],
  ])("%s refuse %j in words", async (name, text, words) => {
    await say({});
    await write(shown.named(`Add to ${name}`), text, "Enter");
    expect(values()).toEqual([]);
    expect(shown.find(".sae-header [role=alert]").textContent).toContain(words);
  });

  test("a value is removed by click and by key, and the next one gets the focus", async () => {
    await say({}, { _values: { ...REQUESTED._values, strengths: [-1, 0.5, 1] } });
    await press(shown.named("Remove 0.5"), "Delete");
    expect(document.activeElement?.getAttribute("aria-label")).toBe("Remove 1");
    await click(shown.named("Remove 1"));
    expect(values().at(0)).toEqual({ strengths: [-1, 1] });
    expect(shown.find('fieldset[aria-label="Strengths"]').textContent).not.toContain("0.5");
    expect(document.activeElement?.getAttribute("aria-label")).toBe("Remove −1");
  });

  test("those of the explorer's own are not there twice", async () => {
    await say({});
    expect(bar().parentElement?.querySelector("[data-option=feature]")).toBeNull();
  });
});
