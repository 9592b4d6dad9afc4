"""The tokenizer: byte-pair encoding with Gemma's word-start mark.

A word must be one token in one form wherever it stands, because token lists
and trees are read word by word. So the normaliser puts the word-start mark not
only after a space, but also at the start of the text, after an opening quote
and after a parenthesis; the decoder takes it away again.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from lines import PLACEHOLDER, PROMPT
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BOS", "EOS", "SPECIAL_TOKENS", "check_tokenizer", "train_tokenizer"]

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<unused{i}>" for i in range(4)]
PAD, EOS, BOS = 0, 1, 2
MARK = "\u2581"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on training lines.

    Parameters
    ----------
    texts
        Lines.
    vocab_size
        Number of tokens, the special ones included.
    max_length
        The model's context, written into the tokenizer's settings.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    replace = normalizers.Replace
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            replace(Regex("[\u201c\u201d]"), '"'),
            replace(Regex("[\u2018\u2019]"), "'"),
            replace(Regex(r"^(?=\w)"), " "),
            replace(Regex(r'^"(?=\w)'), ' " '),
            replace(Regex(r'(?<= )"(?=\w)'), '" '),
            replace(Regex(r"(?<=[(])(?=\w)"), " "),
            replace(" ", MARK),
        ]
    )
    pieces = rf"'s|{MARK}?[A-Za-z]+|{MARK}?[0-9]|{MARK}?[^A-Za-z0-9{MARK}]|{MARK}"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.Fuse(),
            decoders.Replace(' " ', ' "'),
            decoders.Replace("( ", "("),
            decoders.Strip(" ", 1, 0),
        ]
    )
    printable = string.digits + string.ascii_letters + string.punctuation
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=[*printable, MARK],
        limit_alphabet=len(printable) + 1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> int:
    """Check the prompt's encoding and count the lines that do not round-trip.

    Raises
    ------
    ValueError
        If the placeholder of the prompt is not one token of its own, or the
        begin token is missing.
    """
    ids = tokenizer(PROMPT.format(PLACEHOLDER)).input_ids
    placeholder = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    if ids[0] != BOS or ids.count(placeholder) != 1:
        raise ValueError(f"the prompt is encoded as {ids}, placeholder {placeholder}")
    backend = tokenizer.backend_tokenizer
    # Decoding drops special tokens, the placeholder among them.
    plain = [text for text in texts if PLACEHOLDER not in text]
    encoded = backend.encode_batch(plain)
    decoded = backend.decode_batch([row.ids for row in encoded])
    return sum(text != back for text, back in zip(plain, decoded, strict=True))
