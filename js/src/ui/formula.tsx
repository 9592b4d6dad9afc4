import { plain } from "./format.ts";

function Cosine({ of }: { of: string }) {
  return (
    <mrow>
      <mi>cos</mi>
      <mo>⁡</mo>
      <mo>(</mo>
      <mi>{of}</mi>
      <mo>,</mo>
      <msub>
        <mi>E</mi>
        <mi>t</mi>
      </msub>
      <mo>)</mo>
    </mrow>
  );
}

/** What the tokens are ranked by, with the exponent that holds. */
export function Formula({ exponent }: { exponent: number }) {
  return (
    <div class="sae-formula">
      <math display="block">
        <mfrac>
          <msup>
            <mrow>
              <mo>(</mo>
              <mn>1</mn>
              <mo>−</mo>
              <Cosine of="v" />
              <mo>)</mo>
            </mrow>
            <mrow>
              <mi>m</mi>
              <mo>=</mo>
              <mn>{plain(exponent)}</mn>
            </mrow>
          </msup>
          <mrow>
            <mn>1</mn>
            <mo>−</mo>
            <Cosine of="μ" />
          </mrow>
        </mfrac>
      </math>
      <p>
        <i>v</i> the ghost vector, <i>E</i>
        <sub>t</sub> the token's embedding, <i>μ</i> the mean of all. The lowest come first.
      </p>
    </div>
  );
}
