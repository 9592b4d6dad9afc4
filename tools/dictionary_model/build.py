"""Build the bundled dictionary model and its sparse autoencoders.

    python tools/dictionary_model/build.py --work DIR [--out DIR]

Stages, each skipped when its finished output lies in the work folder:

data
    WordNet 3.0, from Debian's ``wordnet-base`` (or ``--wordnet DIR``).
tokenizer
    10,240 tokens, trained on the lines of the first epoch.
train
    The language model; a killed run goes on from its checkpoint.
saes
    Two sparse autoencoders on the finished model's residual stream.
evaluation
    All figures, and the list of features worth showing.

Then everything is put together, with the model card, and moved to ``--out``.
It takes a little over an hour on two cores, 24 MB of downloads at most and 4 GB
of memory; the libraries are those of the package and of its ``dev`` extra. The
same seed gives the same training lines; weights differ in their last digits
from one kind of processor to another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from packages import preload_allocator

OUT = Path(__file__).parents[2] / "python/sae_explorer/assets/dictionary"


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for all stages")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to ship")
    parser.add_argument("--wordnet", type=Path, help="dict folder of WordNet 3.0")
    parser.add_argument("--compare", type=Path, help="another model, to print its figures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    preload_allocator(work)
    # The trees of the evaluation are the package's own, of this source tree.
    sys.path.append(str(Path(__file__).parents[2] / "python"))
    # torch is first imported below, in the program with the other allocator.
    from stages import Build

    build = Build(work, options.out.resolve(), options.wordnet, options.compare, options.seed)
    build.run()


if __name__ == "__main__":
    main()
