// What the widget makes of a kernel that is busy, restarted or out of reach.
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { connect, type Synced } from "../../js/src/state/synced.ts";
import { click, press, type Shown, STATUS, SUBJECT, show, VALUES, write } from "./explorer.tsx";
import { type FakeModel, fakeModel, ROOT, treePayload } from "./model.ts";

let shown: Shown;
beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  shown.close();
  // What signals have put off is done, or those of the next test would wait for it for ever.
  vi.runOnlyPendingTimers();
  vi.useRealTimers();
});

/** A tree of two nodes, and the status that goes with it. */
const TREE = treePayload([ROOT, { parent: 0, text: " a", p: 0.5 }]);
const DONE = { ...STATUS, nodes: 2 };

/** Show the widget on a kernel that has answered what it was greeted with. */
async function greeted(state: Record<string, unknown> = {}) {
  shown = await show({ _tree: TREE, _status: DONE, ...state });
  await pass(1);
  for (const { rid } of shown.asked("hello")) await reply(rid);
}
const pass = (seconds: number) =>
  act(async () => {
    await vi.advanceTimersByTimeAsync(1000 * seconds);
  });
const reply = (rid: unknown, answer: Record<string, unknown> = { ok: true }) =>
  act(async () => shown.model.tell({ type: "reply", rid, ...answer }));
const chip = () => shown.find(".sae-chip").textContent;
const notice = () => shown.find(".sae-notice").textContent;
const field = () => shown.named("Feature to show");
/** What was set, without what was asked again under the same number. */
const wanted = () => {
  const numbered = new Map(shown.asked("set").map(({ rid, values }) => [rid, values]));
  return [...numbered.values()];
};

describe("a kernel that is busy", () => {
  test("is said to be, with the seconds, until it answers", async () => {
    await greeted();
    await write(field(), "8", "Enter");
    await pass(2);
    expect(chip()).toBe("done");
    await pass(10);
    expect(chip()).toBe("waiting");
    expect(notice()).toContain(
      "has not answered for 12 s: it is busy with another cell, or gone; what you see is feature 7.",
    );
    await pass(5);
    expect(notice()).toContain("17 s");
    await shown.answer("set", { ok: true });
    expect(chip()).toBe("done");
    expect(notice()).not.toContain("answered");
  });

  test("is not said to show something else where it shows what the field says", async () => {
    await greeted();
    await write(shown.find<HTMLInputElement>('[data-option="top_k"] input'), "7", "Enter");
    await pass(5);
    expect(notice()).toContain("busy with another cell, or gone.");
  });

  test("is known to be there by what it tells of its work", async () => {
    await greeted();
    await write(field(), "8", "Enter");
    await pass(4);
    await act(async () => shown.model.tell({ type: "status", status: DONE }));
    await pass(1);
    expect(notice()).toContain(
      "has not answered for 5 s: it works, and answers when its cell ends; what you see is feature 7.",
    );
  });

  test("is sent each change once, the last value of each control", async () => {
    await greeted();
    await write(field(), "8", "Enter");
    const [first] = shown.asked("set");
    for (const feature of ["9", "10", "11"]) {
      await pass(3);
      await write(field(), feature, "Enter");
      await pass(1);
    }
    await write(shown.find<HTMLInputElement>('[data-option="top_k"] input'), "7", "Enter");
    await pass(1);
    // It is shown as asked for, though the kernel knows nothing of it yet.
    expect(field().value).toBe("11");
    expect(wanted()).toEqual([{ feature: 8 }]);
    await reply(first.rid);
    expect(wanted()).toEqual([{ feature: 8 }, { feature: 11 }, { top_k: 7 }]);
  });

  test("is asked again under the same number, more and more seldom", async () => {
    await greeted();
    await write(field(), "8", "Enter");
    await pass(60);
    const sent = shown.asked("set");
    expect(new Set(sent.map(({ rid }) => rid)).size).toBe(1);
    expect(sent.length).toBeGreaterThan(2);
    expect(sent.length).toBeLessThan(8);
  });

  test("that answers a later question is asked the earlier one again", async () => {
    await greeted();
    await write(field(), "8", "Enter");
    await pass(1.5);
    shown.model.sent.length = 0;
    await click(shown.find(".sae-tokens .sae-take button:last-of-type"));
    await shown.answer("export", { ok: false, error: "none" });
    expect(wanted()).toEqual([{ feature: 8 }]);
  });

  test("does not begin what was cancelled before it heard of it", async () => {
    await greeted({ _status: { ...DONE, state: "partial", resumable: true } });
    await write(field(), "8", "Enter");
    await pass(3);
    await click(shown.button("Grow on"));
    shown.model.set("_status", { ...DONE, state: "growing" });
    await pass(0);
    await press(field(), "Escape");
    expect(shown.asked("cancel").length).toBe(1);
    await shown.answer("set", { ok: true });
    expect(shown.asked("resume")).toEqual([]);
  });
});

describe("what is asked of a kernel that does not answer", () => {
  let model: FakeModel;
  let synced: Synced;
  beforeEach(async () => {
    model = fakeModel({ _tree: TREE, _status: DONE });
    synced = connect(model);
    await pass(1);
    for (const { rid } of model.sent) model.tell({ type: "reply", rid, ok: true });
    model.sent.length = 0;
    // What the tests around have to close.
    shown = { close: synced.close } as Shown;
  });
  /** What was sent, in words, since the last look. */
  const sent = () =>
    model.sent.splice(0).map(({ type, panel, values, file, rid }) => {
      rids.set(JSON.stringify(values ?? panel ?? file ?? type), rid);
      return [type, panel ?? file, values && JSON.stringify(values)].filter(Boolean).join(" ");
    });
  const rids = new Map<string, unknown>();
  const answer = (about: unknown, told: Record<string, unknown> = { ok: true }) =>
    model.tell({ type: "reply", rid: rids.get(JSON.stringify(about)), ...told });
  const ask = (message: Parameters<Synced["ask"]>[0]) => {
    const asked = synced.ask(message);
    asked.catch(() => {});
    return asked;
  };

  test("a change is not asked for again once a later one was made", async () => {
    const first = ask({ type: "set", values: { feature: 8 } });
    await pass(0.5);
    ask({ type: "set", values: { feature: 9, direction: null } });
    sent();
    await pass(1.4);
    answer({ feature: 9, direction: null });
    await pass(20);
    expect(sent()).toEqual([]);
    expect(await first).toBeNull();
    expect(synced.values.value.feature).toBeUndefined();
  });

  test("a change is asked for again where a later one was refused", async () => {
    ask({ type: "set", values: { feature: 8 } });
    await pass(0.5);
    ask({ type: "set", values: { feature: 9 } });
    sent();
    await pass(1);
    answer({ feature: 9 }, { ok: false, error: "no" });
    expect(sent()).toEqual(['set {"feature":8}']);
  });

  test("a run has the options that were set before it", async () => {
    ask({ type: "set", values: { feature: 8 } });
    await pass(1.5);
    ask({ type: "set", values: { doses: [0] } });
    ask({ type: "set", values: { doses: [1] } });
    ask({ type: "run", panel: "dose" });
    ask({ type: "set", values: { doses: [2] } });
    expect(sent()).toEqual(['set {"feature":8}']);
    answer({ feature: 8 });
    expect(sent()).toEqual(['set {"doses":[1]}', "run dose", 'set {"doses":[2]}']);
  });

  test("a run that was cancelled is not asked for again", async () => {
    const run = ask({ type: "run", panel: "dose" });
    ask({ type: "run", panel: "scales" });
    await pass(1.5);
    ask({ type: "cancel", panel: "dose" });
    sent();
    answer("dose");
    await pass(3);
    expect(new Set(sent())).toEqual(new Set(["run scales"]));
    expect(await run).toBeNull();
  });

  test("its silence is counted from its last answer", async () => {
    ask({ type: "set", values: { feature: 8 } });
    await pass(2);
    ask({ type: "set", values: { feature: 9 } });
    await pass(30);
    expect(synced.silence.value?.seconds).toBe(32);
    sent();
    answer({ feature: 8 });
    expect(sent()).toEqual(['set {"feature":9}']);
    // It is shown as asked for all the same.
    expect(synced.silence.value).toBeNull();
    expect(synced.values.value.feature).toBe(9);
    await pass(2);
    expect(synced.silence.value).toBeNull();
    expect(synced.values.value.feature).toBe(9);
    await pass(2);
    expect(synced.silence.value?.seconds).toBe(4);
  });

  test("a file whose answer was lost is asked for under another number", async () => {
    const file = ask({ type: "export", file: "tree.csv" });
    sent();
    const first = rids.get('"tree.csv"');
    await pass(3);
    expect(sent()).toEqual(["export tree.csv"]);
    expect(rids.get('"tree.csv"')).toBe(first);
    answer("tree.csv", { ok: true, gone: true });
    expect(sent()).toEqual(["export tree.csv"]);
    expect(rids.get('"tree.csv"')).not.toBe(first);
    const data = new DataView(new Uint8Array([97]).buffer);
    answer("tree.csv", { ok: true, file: { name: "tree.csv", mime: "text/csv", data } });
    expect(await file).toMatchObject({ name: "tree.csv" });
  });
});

describe("a kernel that has ended", () => {
  const REASON = "No kernel answers: this is its last result. It may have been restarted";
  const expectLost = () => {
    expect(chip()).toBe("no kernel");
    expect(shown.find("[role=alert]").textContent).toContain(REASON);
    expect(shown.named<HTMLInputElement>("Scale").disabled).toBe(true);
    expect(shown.named<HTMLButtonElement>("Next feature").disabled).toBe(true);
    expect(shown.el.querySelectorAll("[role=treeitem]").length).toBe(2);
  };

  test("is known where the host says so", async () => {
    await greeted();
    await act(async () => shown.model.fire("comm_live_update"));
    expectLost();
  });

  test("is known where its host refuses to send", async () => {
    await greeted();
    shown.model.send = () => {
      throw new Error("Cannot send");
    };
    await write(field(), "8", "Enter");
    await pass(0);
    expectLost();
    expect(field().value).toBe("7");
  });

  test("is known by one that has done with a question and not answered it", async () => {
    await greeted();
    const callbacks: { iopub: { status(told: unknown): void } }[] = [];
    shown.model.send = (_content, own) => void callbacks.push(own as never);
    await write(field(), "8", "Enter");
    for (let asked = 0; asked < 2; asked += 1) {
      expect(chip()).not.toBe("no kernel");
      callbacks[asked].iopub.status({ content: { execution_state: "busy" } });
      callbacks[asked].iopub.status({ content: { execution_state: "idle" } });
      await pass(3);
    }
    expectLost();
  });

  test("is not taken for one that is still at what it was asked before", async () => {
    await greeted();
    const callbacks: { iopub: { status(told: unknown): void } }[] = [];
    const rids: unknown[] = [];
    shown.model.send = (content, own) => {
      rids.push((content as { rid: string }).rid);
      callbacks.push(own as never);
    };
    await write(field(), "8", "Enter");
    await pass(3);
    // The question was sent again, and has gone past the first in another thread of the kernel.
    for (let asked = 1; asked < 4; asked += 1) {
      expect(rids.length).toBeGreaterThan(asked);
      const idle = () => callbacks[asked].iopub.status({ content: { execution_state: "idle" } });
      const doing = () => shown.model.tell({ type: "doing", rid: rids[asked] });
      // Hosts hand on both in either order.
      for (const told of asked % 2 ? [doing, idle] : [idle, doing]) told();
      await pass(3 * 2 ** asked);
      expect(chip()).toBe("waiting");
    }
    expect(new Set(rids).size).toBe(1);
    shown.model.tell({ type: "reply", rid: rids[0], ok: true });
    await pass(1);
    expect(chip()).toBe("done");
  });

  test("leaves an end to what was going on, and only what needs no kernel", async () => {
    await greeted({ _status: { ...DONE, state: "growing" } });
    await act(async () => shown.model.fire("comm_live_update"));
    expect(shown.find(".sae-action").dataset.shown).toBeUndefined();
    expect(shown.el.querySelector(".sae-status [role=progressbar]")).toBeNull();
    await click(shown.button("Export"));
    const files = [...shown.el.querySelectorAll(".sae-menu-file")].map((one) => one.textContent);
    expect(files).toEqual(["tree.svg", "tree.png"]);
  });

  test("is taken back when it answers after all", async () => {
    await greeted();
    await act(async () => shown.model.fire("comm_live_update"));
    await pass(6);
    shown.model.set("_status", { ...DONE });
    await pass(0);
    expect(chip()).toBe("no kernel");
    await shown.answer("hello", { ok: true });
    expect(chip()).toBe("done");
  });
});

describe("what was lost on the way", () => {
  test("is asked for when the page has slept", async () => {
    await greeted();
    const before = shown.asked("hello").length;
    vi.setSystemTime(Date.now() + 600_000);
    await pass(1);
    expect(shown.asked("hello").length).toBe(before + 1);
    expect(chip()).toBe("done");
  });

  test("is asked for once where the tree is not the one that the status speaks of", async () => {
    await greeted();
    const before = shown.asked("hello").length;
    shown.model.set("_status", { ...DONE, nodes: 99 });
    await pass(2);
    await shown.answer("hello", { ok: true });
    await pass(20);
    const asked = shown.asked("hello");
    expect(asked.length).toBe(before + 1);
    expect(asked.at(-1)).toMatchObject({ run: 1, known: { tree: null, tokens: null } });
  });

  test.each([
    ["growing", {}],
    ["done", { _jobs: { dose: { state: "running", text: "", progress: null, error: null } } }],
  ])("is asked for when nothing more comes of what is %s", async (state, more) => {
    await greeted({ _status: { ...DONE, state }, ...more });
    const before = shown.asked("hello").length;
    await pass(9);
    expect(shown.asked("hello").length).toBe(before);
    await pass(3);
    expect(shown.asked("hello").length).toBe(before + 1);
  });

  test("is not asked for where nothing is to come", async () => {
    await greeted({ _subject: SUBJECT, _values: VALUES });
    const before = shown.model.sent.length;
    await pass(300);
    expect(shown.model.sent.length).toBe(before);
  });
});
