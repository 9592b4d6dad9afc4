import { afterEach, describe, expect, test, vi } from "vitest";
import { click, press, type Shown, show } from "./explorer.tsx";
import { job, REQUESTED, steered, steeringPayload } from "./requested.ts";

let shown: Shown;
afterEach(() => shown.close());

const see = async (payload = steeringPayload(), state = "done") => {
  shown = await show({
    ...REQUESTED,
    _steering: payload,
    _jobs: { steering: job({ state: state as "done" }) },
  });
};
const texts = () => [...shown.el.querySelectorAll<HTMLElement>(".sae-text")];
const tokens = (text: number) => [...texts()[text].querySelectorAll<HTMLElement>("[role=option]")];
const said = () => shown.find(".sae-reading").textContent;

describe("steered texts", () => {
  test("stand beside the unsteered one, each under its strength", async () => {
    await see();
    expect(texts().map((text) => text.querySelector("b")?.textContent)).toEqual([
      "unsteered",
      "+0.5",
    ]);
    expect(texts()[0].querySelector("[role=listbox]")?.textContent).toBe("I think it rains ∎");
  });

  test("what a model writes is text", async () => {
    await see();
    expect(tokens(1)[4].textContent).toBe("<script>alert(1)</script>⏎");
    expect(shown.el.querySelector("script")).toBeNull();
  });

  test("mark the tokens that differ, and mute the prompt's", async () => {
    await see();
    expect(tokens(1).map((token) => token.className === "sae-differs")).toEqual([
      false,
      false,
      false,
      true,
      true,
    ]);
    expect(tokens(1).map((token) => "prompt" in token.dataset)).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
  });

  test.each([
    [8, ["0%", "7%", "14%", "21%", "28%"]],
    [2, ["0%", "28%", "55%", "55%", "55%"]],
  ])("have the activation behind them, on one scale to %d", async (largest, expected) => {
    await see(steeringPayload({ largest }));
    const heat = tokens(1).map((token) => token.style.getPropertyValue("--sae-heat"));
    expect(heat).toEqual(expected);
    expect(shown.find(".sae-heat-scale").parentElement?.textContent).toContain(largest.toFixed(1));
  });

  test("that do not activate the feature say so", async () => {
    await see(steeringPayload({ largest: 0 }));
    expect(shown.find(".sae-texts").parentElement?.textContent).toContain("is active nowhere");
    expect(tokens(1)[4].style.getPropertyValue("--sae-heat")).toBe("0%");
  });

  test("without activations have no scale of them", async () => {
    await see(steeringPayload({ texts: [steered("unsteered", ["a"], { activation: null })] }));
    expect(shown.el.querySelector(".sae-heat-scale")).toBeNull();
    expect(tokens(0)[0].style.getPropertyValue("--sae-heat")).toBe("0%");
  });

  test("are read token by token with the keyboard", async () => {
    await see();
    const list = texts()[1].querySelector("[role=listbox]") as HTMLElement;
    const read = [];
    for (const key of ["Home", "End", "ArrowRight", "ArrowLeft"]) {
      await press(list, key);
      read.push(said());
    }
    expect(read).toEqual([
      "+0.5 · I · token 0, of the prompt · activation 0.000",
      "+0.5 · <script>alert(1)</script>⏎ · token 4 · differs · activation 4.000",
      "+0.5 · <script>alert(1)</script>⏎ · token 4 · differs · activation 4.000",
      "+0.5 · ␣barks · token 3 · differs · activation 3.000",
    ]);
    const chosen = list.querySelector("[aria-selected=true]");
    expect(chosen?.id).toBe(list.getAttribute("aria-activedescendant"));
  });

  test("say which token ended them", async () => {
    await see();
    await press(texts()[0].querySelector("[role=listbox]") as HTMLElement, "End");
    expect(said()).toBe("unsteered · </s> · token 4 · ends the text · activation 4.000");
  });

  test("say how probable a token was that the model wrote", async () => {
    const text = steered("unsteered", ["I", " am"], { prompt: 1, probability: [null, 0.25] });
    await see(steeringPayload({ texts: [text] }));
    const list = texts()[0].querySelector("[role=listbox]") as HTMLElement;
    await press(list, "Home");
    expect(said()).not.toContain("%");
    await press(list, "End");
    expect(said()).toBe("unsteered · ␣am · token 1 · p 25.0 % · activation 1.000");
  });

  test("are read with the pointer", async () => {
    await see();
    tokens(0)[2].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    await vi.waitFor(() => expect(said()).toBe("unsteered · ␣it · token 2 · activation 2.000"));
  });

  test("show where they are being written", async () => {
    await see(steeringPayload(), "running");
    expect(texts().map((text) => text.querySelector(".sae-caret") !== null)).toEqual([false, true]);
  });
});

test.each([
  ["its bytes made characters", ["<s>", "I", " am", "<0xC3>", "<0xA9>", "\n"], false, " amé\n"],
  ["its end left out", ["<s>", "I", " am", "</s>"], true, " am"],
])("a text is copied as it was written, %s", async (_, tokens, ended, said) => {
  await see(steeringPayload({ texts: [steered("unsteered", tokens, { ended })] }));
  const written = vi.fn(async (_text: string) => {});
  vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText: written } });
  await click(shown.named("Copy the text, unsteered"));
  expect(written).toHaveBeenCalledWith(`I think${said}`);
  expect(shown.el.querySelector('[aria-label="Copied"]')).not.toBeNull();
  vi.unstubAllGlobals();
});
