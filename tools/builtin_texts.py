"""Write the built-in texts on which features' activations are measured.

    python tools/builtin_texts.py --work DIR [--wordnet DIR]

The texts are WordNet 3.0's (Debian's ``wordnet-base``, fetched with apt, or ``--wordnet DIR``), one
a line: definitions, example sentences, and lines in the forms that the bundled dictionary model was
trained on, so that its features find what they respond to. They are shuffled: any beginning of the
file is a sample of the whole. The same seed gives the same file, to the byte.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

TOOLS = Path(__file__).parent
sys.path.insert(0, str(TOOLS / "dictionary_model"))

from lines import LineSampler  # noqa: E402 - found by the path above
from packages import fetch_wordnet  # noqa: E402
from wordnet import Synset, WordNet, read_wordnet  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OUT = TOOLS.parent / "python/sae_explorer/assets/corpus.txt"

#: How many texts of each form.
DEFINITIONS, EXAMPLES, TRAINING_LINES = 900, 800, 1300

#: An epoch of lines that the model's training and its evaluation did not come to.
EPOCH = 2000

#: Characters; shorter texts say little, and longer ones leave room for fewer.
SHORTEST, LONGEST = 25, 200

#: WordNet records words of abuse and of sex too; a page that quotes these texts should not.
_RUDE = re.compile(
    r"\b(?:offensive|disparag\w+|derogat\w+|obscen\w+|slurs?|vulgar\w*|profanity|pornograph\w+|"
    r"sex|sexual\w*|genital\w*|penis|vagina\w*|rape[ds]?|coitus|copulat\w+|prostitut\w+|erotic\w*|"
    r"homosexual\w*|sodomy|incest\w*|masturbat\w+)\b",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[ -~]+")


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for WordNet's files")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    parser.add_argument("--wordnet", type=Path, help="dict folder of WordNet 3.0")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    fetch_wordnet(options.work, options.wordnet)
    texts = choose(read_wordnet(options.work), options.seed)
    options.out.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    print(f"{len(texts):,} texts, {options.out.stat().st_size:,} bytes: {options.out}")


def choose(net: WordNet, seed: int) -> list[str]:
    """Return the texts, in random order, each once."""
    rng = random.Random(f"corpus-{seed}")
    rude = _rude_words(net)
    synsets = [net[key] for key in sorted(net.synsets)]
    sampler = LineSampler(net, held_out=[], seed=seed, ghost_share=0.0)
    forms: tuple[tuple[int, Iterable[str]], ...] = (
        (DEFINITIONS, _definitions(synsets)),
        (EXAMPLES, (example for synset in synsets for example in synset.examples)),
        (TRAINING_LINES, (line.text for line in sampler.epoch(EPOCH))),
    )
    chosen: dict[str, None] = {}
    for count, texts in forms:
        fit = {text: None for text in texts if _fits(text, rude)}
        chosen.update(dict.fromkeys(rng.sample(list(fit), count)))
    texts = list(chosen)
    rng.shuffle(texts)
    return texts


def _definitions(synsets: Iterable[Synset]) -> Iterator[str]:
    for synset in synsets:
        yield f"{synset.lemmas[0]}: {synset.definition}"


def _rude_words(net: WordNet) -> frozenset[str]:
    """Return the words, in small letters, that are rude in their commonest sense."""
    return frozenset(
        lemma.lower()
        for synset in net.synsets.values()
        if _RUDE.search(" ".join((synset.definition, *synset.lemmas)))
        for lemma, rank in zip(synset.lemmas, synset.ranks, strict=True)
        if rank == 1
    )


def _fits(text: str, rude: frozenset[str]) -> bool:
    return (
        SHORTEST <= len(text) <= LONGEST
        and _PLAIN.fullmatch(text) is not None
        and "  " not in text
        and _RUDE.search(text) is None
        and rude.isdisjoint(_words(text))
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


if __name__ == "__main__":
    main()
