// Tokens as text, as Python's text.py has it; tests/visible.json holds the cases of both.

const MARKS: Record<string, string> = { "\n": "⏎", "\r": "␍", "\t": "⇥" };
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/gu;
const BYTES = /((?:<0x[0-9A-F]{2}>)+)/;

/** Spell out every character that cannot be seen, or acts on others. Plain spaces stay. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (character) => {
    const code = (character.codePointAt(0) as number).toString(16).toUpperCase();
    return MARKS[character] ?? `<U+${code.padStart(4, "0")}>`;
  });
}

/** One token's text, its spaces marked as well. */
export function visibleToken(text: string): string {
  return visible(text).replaceAll(" ", "␣");
}

/** What tokens say together; bytes that make up a character become that character. */
export function joinTokens(texts: string[]): string {
  let said = "";
  let codes: number[] = [];
  const end = () => {
    if (codes.length) said += new TextDecoder().decode(Uint8Array.from(codes));
    codes = [];
  };
  // Token by token: "<0" and "xE2>" make no byte, and only say so.
  for (const text of texts) {
    for (const [place, part] of text.split(BYTES).entries()) {
      if (!part) continue;
      if (place % 2) {
        codes.push(
          ...part
            .slice(3, -1)
            .split("><0x")
            .map((code) => Number.parseInt(code, 16)),
        );
      } else {
        end();
        said += part;
      }
    }
  }
  end();
  return said;
}
