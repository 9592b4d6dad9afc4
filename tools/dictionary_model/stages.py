"""The build's stages: what each needs, makes and records."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from card import model_card
from corpus import Corpus, encode_lines
from lines import PLACEHOLDER, Line, LineSampler, hold_out
from measure import end_entropy, held_out_corpus, held_out_loss, measure_sae
from packages import LICENSE, fetch_wordnet
from saes import LAYERS, SAESettings, collect, train_saes
from tokens import BOS, EOS, check_tokenizer, train_tokenizer
from train import TrainSettings, new_model, reset_rare_rows, train
from transformers import AutoTokenizer, GemmaForCausalLM, PreTrainedTokenizerFast
from wordnet import WordNet, read_wordnet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Build"]

VOCAB_SIZE = 10_240
MAX_LENGTH = 128
HELD_OUT = 1_000
RARE = 5
# Epochs that training does not come to: their lines are sampled anew.
SAE_EPOCH, TEST_EPOCH = 1000, 1001
SAE_POSITIONS = 1_500_000
SAE_TEST_LINES = 6_000
DOCUMENT_LINES = 40_000
# Characters; any text as long fits into the context.
LONGEST_TEXT = 240
STAGES = ("wordnet", "tokenizer", "model", "saes", "evaluation")


class Build:
    """One build in one work folder.

    Parameters
    ----------
    work
        Where each stage leaves its finished output.
    out
        The folder to ship, written when all stages are done.
    given_wordnet
        WordNet's dict folder, or None to fetch it.
    compare
        Another model's folder, whose cross-entropy is printed at the end.
    seed
        Seed of everything.
    """

    def __init__(
        self,
        work: Path,
        out: Path,
        given_wordnet: Path | None,
        compare: Path | None,
        seed: int,
    ) -> None:
        self.work = work
        self.out = out
        self.given_wordnet = given_wordnet
        self.compare = compare
        self.seed = seed
        self._started = time.monotonic()
        torch.set_num_threads(2)

    def run(self) -> None:
        """Run the stages that are not done."""
        self._stage("wordnet", self._data)
        self._stage("tokenizer", self._tokenizer)
        self._stage("model", self._train)
        self._stage("saes", self._saes)
        self._stage("evaluation", self._evaluate)
        if self.compare is not None:
            self._compare(self.compare)
        self._ship()

    # The stages; each fills a fresh folder and may return figures

    def _data(self, folder: Path) -> dict[str, Any]:
        fetch_wordnet(folder, self.given_wordnet)
        return {"synsets": len(read_wordnet(folder)), "held_out": HELD_OUT}

    def _tokenizer(self, folder: Path) -> dict[str, Any]:
        texts = [line.text for line in LineSampler(self.net, self.held_out, self.seed).epoch(0)]
        tokenizer = train_tokenizer(texts, VOCAB_SIZE, MAX_LENGTH)
        wrong = check_tokenizer(tokenizer, texts[:10_000])
        tokenizer.save_pretrained(folder)
        vocabulary = tokenizer.get_vocab()
        words = sum(token[0] == "\u2581" and len(token) > 3 for token in vocabulary)
        return {"round_trip_errors": wrong, "word_start_tokens": words}

    def _train(self, folder: Path) -> dict[str, Any]:
        job = DictionaryJob(
            net=self.net,
            held_out=self.held_out,
            tokenizer=self.tokenizer,
            settings=TrainSettings(seed=self.seed),
            checkpoint=self.work / "checkpoint.pt",
            started=self._started,
        )
        model, figures = train(job)
        counts = torch.zeros(VOCAB_SIZE, dtype=torch.long)
        for row in job.epoch(0, report=False).rows:
            counts += torch.bincount(torch.from_numpy(row), minlength=VOCAB_SIZE)
        rare = reset_rare_rows(model, counts, RARE, keep=[BOS, EOS])
        model.half().save_pretrained(folder)
        return {**figures, "rare_rows": rare}

    def _saes(self, folder: Path) -> dict[str, Any]:
        corpus, _ = self._plain(epoch=SAE_EPOCH, most=None)
        self._report("saes: collecting activations")
        activations = collect(self._load_model(), corpus, self.seed, SAE_POSITIONS)
        settings = [
            SAESettings(layer, matryoshka=layer == LAYERS[-1], seed=self.seed) for layer in LAYERS
        ]
        positions = len(activations[0])
        self._report(f"saes: training on {settings[0].passes:g} x {positions:,} positions")
        train_saes(activations, settings, folder)
        return {"positions": positions}

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        # The engine is the package's own: run from the source tree, it need not be installed.
        from retrieval import FeatureDocuments, Retrieval

        from sae_explorer import Subject

        merged = self._merge(folder / "subject")
        subject = Subject.from_folder(
            model=merged, saes=[merged / f"sae_layer_{layer}" for layer in LAYERS], device="cpu"
        )
        held_out = held_out_corpus(self.net, self.held_out, self.tokenizer, self.seed)
        figures: dict[str, Any] = {
            "model": {
                "held_out": held_out_loss(subject.model, held_out),
                "after_end": end_entropy(subject.model, held_out),
            },
            "lines": DOCUMENT_LINES,
            "saes": {},
            "retrieval": {},
        }
        self._report(f"evaluation: {json.dumps(figures['model'])}")
        corpus, lines = self._plain(epoch=TEST_EPOCH, most=DOCUMENT_LINES)
        few, _ = self._plain(epoch=TEST_EPOCH, most=SAE_TEST_LINES)
        texts = FeatureDocuments(lines, corpus)
        featured = {}
        for layer in LAYERS:
            chosen = subject.select(layer=layer)
            sae = chosen.sae.sae
            details = sae.cfg.metadata.training_architecture_details
            figures["saes"][str(layer)] = {
                "architecture": sae.cfg.metadata.training_architecture,
                "latents": sae.cfg.d_sae,
                "k": details["k"],
                **measure_sae(subject.model, sae, layer, few),
            }
            self._report(f"evaluation: {json.dumps(figures['saes'][str(layer)])}")
            retrieval = Retrieval(chosen, texts, layer, self.seed)
            count, featured[str(layer)] = retrieval.convincing()
            figures["retrieval"][str(layer)] = {
                "auc_sample": len(retrieval.sample),
                "auc": retrieval.auc_table(),
                "convincing": count,
            }
            self._report(f"evaluation: {json.dumps(figures['retrieval'][str(layer)])}")
        shutil.rmtree(merged)
        _write_json(folder / "figures.json", figures)
        _write_json(folder / "featured.json", featured)
        return {}

    def _compare(self, other: Path) -> None:
        """Print another model's held-out cross-entropy, on the same words."""
        model = GemmaForCausalLM.from_pretrained(other, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(other)
        corpus = held_out_corpus(self.net, self.held_out, tokenizer, self.seed)
        self._report(f"the other model: {json.dumps(held_out_loss(model, corpus))}")

    def _ship(self) -> None:
        """Put everything together and move it to its place."""
        figures = json.loads((self.work / "evaluation" / "figures.json").read_text())
        figures["stages"] = {
            name: json.loads((self.work / f"{name}.json").read_text()) for name in STAGES
        }
        fresh = self._merge(self.out.with_name(f"{self.out.name}.new"))
        shutil.copy(self.work / "evaluation" / "featured.json", fresh)
        shutil.copy(self.work / "wordnet" / LICENSE, fresh)
        _write_json(fresh / "figures.json", figures)
        config = json.loads((fresh / "config.json").read_text())
        (fresh / "MODEL_CARD.md").write_text(model_card(figures, config), encoding="utf-8")
        if self.out.exists():
            old = self.out.with_name(f"{self.out.name}.old")
            self.out.replace(old)
            fresh.replace(self.out)
            shutil.rmtree(old)
        else:
            fresh.replace(self.out)
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        self._report(f"shipped: {size / 1e6:.2f} MB")

    # What several stages share

    def _merge(self, folder: Path) -> Path:
        """Model, tokenizer and autoencoders in one folder, as they are shipped."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("model", "tokenizer", "saes"):
            shutil.copytree(self.work / name, folder, dirs_exist_ok=True)
        return folder

    def _load_model(self) -> GemmaForCausalLM:
        """Load the finished model, in float32."""
        model = GemmaForCausalLM.from_pretrained(self.work / "model", dtype=torch.float32)
        return model.eval()

    def _plain(self, epoch: int, most: int | None) -> tuple[Corpus, list[Line]]:
        """Lines without ghosts, encoded and as text."""
        sampler = LineSampler(self.net, self.held_out, self.seed, ghost_share=0.0)
        lines = [line for line in sampler.epoch(epoch) if len(line.text) <= LONGEST_TEXT][:most]
        corpus = encode_lines(lines, self.tokenizer, MAX_LENGTH)
        assert len(corpus.rows) == len(lines)
        return corpus, lines

    @cached_property
    def net(self) -> WordNet:
        """WordNet."""
        return read_wordnet(self.work / "wordnet")

    @cached_property
    def held_out(self) -> list[str]:
        """Keys of the synsets that training does not show."""
        return hold_out(self.net, HELD_OUT, self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The finished tokenizer."""
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self.work / "tokenizer")
        return tokenizer

    # Bookkeeping

    def _stage(self, name: str, make: Callable[[Path], dict[str, Any]]) -> None:
        """Make the folder ``name``, unless it is there, and record its figures."""
        target = self.work / name
        if target.exists():
            self._report(f"{name}: done before")
            return
        self._report(f"{name}: begins")
        fresh = self.work / f"{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        wall, cpu = time.monotonic(), _processor_seconds()
        figures = make(fresh)
        # A stage that can be interrupted gives the time of all its runs.
        wall = figures.pop("seconds", time.monotonic() - wall)
        cpu = figures.pop("cpu_seconds", _processor_seconds() - cpu)
        figures["minutes"] = round(wall / 60, 2)
        figures["cpu_minutes"] = round(cpu / 60, 2)
        (self.work / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        fresh.replace(target)
        self._report(f"{name}: {json.dumps(figures)}")

    def _report(self, text: str) -> None:
        _print(self._started, text)


@dataclass(frozen=True)
class DictionaryJob:
    """The training of the dictionary model."""

    net: WordNet
    held_out: list[str]
    tokenizer: PreTrainedTokenizerFast
    settings: TrainSettings
    checkpoint: Path
    started: float

    @property
    def placeholder(self) -> int:
        """Token id of the placeholder."""
        token: int = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        return token

    def new_model(self) -> GemmaForCausalLM:
        """Make the untrained model."""
        return new_model(VOCAB_SIZE, MAX_LENGTH, self.settings.seed)

    def epoch(self, number: int, report: bool) -> Corpus:
        """Sample and encode an epoch's lines."""
        sampler = LineSampler(self.net, self.held_out, self.settings.seed)
        corpus = encode_lines(sampler.epoch(number), self.tokenizer, MAX_LENGTH)
        if report:
            rows, tokens = len(corpus.rows), corpus.n_tokens
            self.report(f"epoch {number}: {rows:,} lines, {tokens:,} tokens")
        return corpus

    def report(self, text: str) -> None:
        """Print a line of progress."""
        _print(self.started, text)


def _print(started: float, text: str) -> None:
    print(f"[{(time.monotonic() - started) / 60:6.2f} min] {text}", flush=True)


def _processor_seconds() -> float:
    """Processor time of this process and of the ended ones that it started."""
    return sum(os.times()[:4])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
