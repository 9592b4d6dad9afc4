"""Claims about tokens as text, by the same cases as the front-end's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_explorer import Subject
from sae_explorer.analyses.tree_formats import percent
from sae_explorer.text import join_tokens, visible, visible_token
from sae_explorer.widget.panels import OPTIONS, SOURCES
from zoo import build_model, build_tokenizer

HERE = Path(__file__).parent
CASES = json.loads((HERE / "visible.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"]))
def test_python_and_the_browser_show_the_same(case: dict[str, str]) -> None:
    assert visible(case["text"]) == case["visible"]
    assert visible_token(case["text"]) == case["token"]


def test_half_of_a_surrogate_pair_is_spelled_out() -> None:
    assert visible("\ud800") == "<U+D800>"


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama's and Gemma's: what its vocabulary has not is written as bytes."""
    pieces = ["<unk>", "▁", "▁a", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TEXTS = ["é", "’s", "🙂", "العربية", "中文", "ไทย", "👩‍👩‍👧", "é\ufffd!"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "tokenizer", [build_tokenizer(), byte_fallback_tokenizer()], ids=["gpt2", "llama"]
)
def test_parts_of_characters_are_shown_as_bytes_whatever_the_vocabulary(
    text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    subject = Subject(build_model("llama"), tokenizer)
    ids = tokenizer.encode(f"a{text}", add_special_tokens=False)[1:]
    shown = subject.token_texts(ids)
    parts = f"a{text}".encode()[1:]
    if len(ids) == len(parts):  # each byte by itself
        assert shown == [chr(byte) if byte < 0x80 else f"<0x{byte:02X}>" for byte in parts]
    assert join_tokens(shown) == text


def test_a_token_of_letters_and_half_a_character_keeps_its_letters() -> None:
    entries = ["Ġ", "a", "s", "Ġâ", "Ģ", "ĻĻs", "Ļ"]
    tokenizer = Tokenizer(models.WordLevel({entry: at for at, entry in enumerate(entries)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u0000", "isolated")
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="a")
    shown = Subject(build_model("llama"), wrapped).token_texts(range(len(entries)))
    assert shown == [" ", "a", "s", " <0xE2>", "<0x80>", "<0x99><0x99>s", "<0x99>"]
    assert join_tokens([shown[place] for place in (3, 4, 6, 2)]) == " ’s"


def test_only_whole_tokens_are_bytes() -> None:
    assert join_tokens(["<0", "xC3>", "<0xC3>", "<0xA9>"]) == "<0xC3>é"
    assert join_tokens(["<0xC3>"]) == "\ufffd"


def test_the_front_ends_tests_know_the_controls_as_they_are() -> None:
    known = json.loads((HERE / "js" / "controls.json").read_text(encoding="utf-8"))
    shown = [entry for name, entry in OPTIONS.items() if name not in SOURCES]
    assert known == json.loads(json.dumps(shown))  # tuples travel as lists


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "100.0 %"),
        (0.1234, "12.3 %"),
        (0.0082, "0.82 %"),
        (0.000031, "0.0031 %"),
        (0.0002, "0.020 %"),
        (0.0000094, "0.0009 %"),
        (2e-9, "<0.0001 %"),
        (0.0, "0 %"),
    ],
)
def test_probabilities_are_short(probability: float, shown: str) -> None:
    assert percent(probability) == shown
