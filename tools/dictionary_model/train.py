"""Train the language model on WordNet lines, on the processor.

Three things are unusual:

* *Ghost rows.* A definition row may hold the placeholder instead of its word.
  The placeholder's embedding is then a vector in the direction of the mean
  embedding of a few concept words (seen from the vocabulary's centroid), with
  noise and of varying length. So the model learns to
  read a position that holds a direction and no word. Nothing of any sparse
  autoencoder goes into it.
* *A uniform target after the end token*, so that whatever follows a finished
  line has next to no probability.
* *Exact resumption.* All randomness of a step is drawn from the seed and the
  step's number, so a checkpoint needs no generator state.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tokens import BOS, EOS, PAD, SPECIAL_TOKENS
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional
from transformers import GemmaConfig, GemmaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from corpus import Batch, Corpus, Ints

__all__ = [
    "TrainJob",
    "TrainSettings",
    "cross_entropy",
    "ghost_embeddings",
    "new_model",
    "reset_rare_rows",
    "train",
]

UNIFORM = -1
WORKERS = 2
GHOST_DISTANCES = (0.6, 2.0)
GHOST_NOISE = 1.3


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the training run; a checkpoint is only continued with equal ones."""

    seed: int = 0
    tokens: int = 20_000_000
    batch_tokens: int = 4096
    lr: float = 2.5e-3
    warmup_tokens: int = 1_000_000
    weight_decay: float = 0.1
    clip: float = 1.0
    checkpoint_seconds: float = 120.0

    def lr_at(self, done: int) -> float:
        """Linear warm-up, then linear decay to nothing."""
        rest = (self.tokens - done) / (self.tokens - self.warmup_tokens)
        return self.lr * max(0.0, min(done / self.warmup_tokens, rest))


class TrainJob(Protocol):
    """What a training run needs; it is sent to each process by pickling.

    Attributes
    ----------
    settings
        Budget and schedule.
    checkpoint
        File that is written every couple of minutes.
    placeholder
        Token id of the placeholder.
    """

    @property
    def settings(self) -> TrainSettings: ...
    @property
    def checkpoint(self) -> Path: ...
    @property
    def placeholder(self) -> int: ...

    def new_model(self) -> GemmaForCausalLM:
        """Make the untrained model, the same in each process."""

    def epoch(self, number: int, report: bool) -> Corpus:
        """Make the corpus of an epoch, the same in each process."""

    def report(self, text: str) -> None:
        """Take a line of progress."""


def new_model(vocab_size: int, max_length: int, seed: int) -> GemmaForCausalLM:
    """Make the untrained model: 3.5 M parameters for 10,240 tokens."""
    torch.manual_seed(seed)
    config = GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=40,
        max_position_embeddings=max_length,
        hidden_act="gelu_pytorch_tanh",
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        tie_word_embeddings=True,
        # Rows are short: plain matrix products beat the fused attention kernel here.
        attn_implementation="eager",
    )
    return GemmaForCausalLM(config)


class _CrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of hidden states against tied embeddings.

    Gradients are made in the forward pass, a block of rows at a time, so the
    logits of a batch (160 MB) never exist at once: on a processor the memory
    traffic is most of the cost. Probabilities are kept in bfloat16, so the
    loss itself is good to about 0.2 %.
    """

    BLOCK = 512
    ROUND = 128

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        weight_b = weight.bfloat16()
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), _CrossEntropy.BLOCK):
            rows = slice(start, start + _CrossEntropy.BLOCK)
            hidden_b = hidden[rows].bfloat16()
            count = len(hidden_b)
            # Kernels are compiled for each shape, so only a few are made.
            hidden_b = functional.pad(hidden_b, (0, 0, 0, -count % _CrossEntropy.ROUND))
            delta = (hidden_b @ weight_b.t()).softmax(dim=-1)
            uniform = (targets[rows] == UNIFORM).nonzero()[:, 0]
            hard = (targets[rows] != UNIFORM).nonzero()[:, 0]
            hits = hard, targets[rows][hard]
            total -= delta[hits].float().log().sum()
            total -= delta[uniform].float().log().mean(dim=-1).sum()
            delta[hits] -= 1.0
            delta[uniform] -= 1.0 / len(weight)
            delta[count:] = 0.0
            grad_hidden[rows] = (delta @ weight_b)[:count].float()
            grad_weight += delta.t() @ hidden_b
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of cross-entropies; a target of -1 stands for the uniform distribution.

    Parameters
    ----------
    hidden : Tensor, shape (rows, d_model)
        Final hidden states, after the norm.
    weight : Tensor, shape (vocabulary, d_model)
        Tied embedding matrix.
    targets : Tensor, shape (rows,)
        Token ids.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return loss


def ghost_embeddings(
    embedding: Tensor, concepts: list[Tensor], generator: torch.Generator
) -> Tensor:
    """Make one placeholder embedding for each concept.

    ``[centroid] + s * unit(unit(m - centroid) + noise)`` where ``m`` is the mean
    embedding of the concept's tokens, ``s`` the tokens' mean distance from the
    centroid times a factor drawn from `GHOST_DISTANCES`, and ``noise`` a random
    direction of a length drawn from 0 to `GHOST_NOISE`. Half of the ghosts go
    without the centroid: both conventions are in use.

    Returns
    -------
    Tensor, shape (concepts, d_model)
    """
    tokens = embedding[len(SPECIAL_TOKENS) :]
    centroid = tokens.mean(dim=0)
    mean_distance = (tokens - centroid).norm(dim=1).mean()
    means = torch.stack([embedding[ids].mean(dim=0) for ids in concepts])
    count, width = means.shape
    noise = functional.normalize(torch.randn(count, width, generator=generator), dim=1)
    amount = GHOST_NOISE * torch.rand(count, 1, generator=generator)
    direction = functional.normalize(
        functional.normalize(means - centroid, dim=1) + amount * noise, dim=1
    )
    low, high = GHOST_DISTANCES
    factor = low + (high - low) * torch.rand(count, 1, generator=generator)
    offset = (torch.rand(count, 1, generator=generator) < 0.5) * centroid
    ghosts: Tensor = offset + factor * mean_distance * direction
    return ghosts


def batch_loss(
    model: GemmaForCausalLM, batch: Batch, placeholder: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Sum the loss of a batch's trained positions, and count them."""
    ids = torch.from_numpy(batch.ids).long()
    embed = model.model.embed_tokens
    embedded = embed(ids)
    if batch.ghosts:
        rows = torch.tensor([row for row, _ in batch.ghosts])
        concepts = [torch.from_numpy(ids).long() for _, ids in batch.ghosts]
        # The embeddings learn from words; ghosts only have to be read.
        with torch.no_grad():
            ghosts = ghost_embeddings(embed.weight, concepts, generator)
            places = (ids[rows] == placeholder).int().argmax(dim=1)
        scale = model.config.hidden_size**0.5
        embedded = embedded.index_put((rows, places), ghosts * scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], UNIFORM)], dim=1)
    positions = torch.arange(ids.shape[1])
    trained = positions >= torch.from_numpy(batch.loss_from)[:, None]
    loss = cross_entropy(hidden[trained].float(), embed.weight, targets[trained])
    return loss, int(trained.sum())


def train(job: TrainJob) -> tuple[GemmaForCausalLM, dict[str, float]]:
    """Train a model, or go on from the job's checkpoint.

    The rows of each batch are shared out among `WORKERS` processes of one
    thread each, which meet once a step to add up their gradients. Two threads
    of one process would meet thousands of times a step, and wait there
    whenever another program takes one of the cores.

    Returns
    -------
    GemmaForCausalLM
        The trained model, in float32.
    dict
        Tokens, steps, seconds and processor seconds, of all runs together.
    """
    with tempfile.TemporaryDirectory() as meeting:
        store = f"file://{meeting}/store"
        multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _worker, args=(job, store), nprocs=WORKERS
        )
    saved = torch.load(job.checkpoint, weights_only=True)
    model = job.new_model()
    model.load_state_dict(saved["model"])
    state = saved["state"]
    return model, {k: state[k] for k in ("tokens", "step", "seconds", "cpu_seconds")}


def _worker(rank: int, job: TrainJob, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORKERS)
    run = _Run(job, rank)
    run.go()
    distributed.destroy_process_group()


class _Run:
    """One process's part of a training run."""

    def __init__(self, job: TrainJob, rank: int) -> None:
        self.job = job
        self.rank = rank
        self._parent = os.getppid()
        self.model = job.new_model()
        self.model.train()
        self.parameters = list(self.model.parameters())
        self.optimizers = _optimizers(self.model, job.settings)
        self.state: dict[str, Any] = {"epoch": 0, "position": 0, "step": 0, "tokens": 0}
        self.state |= {"seconds": 0.0, "cpu_seconds": 0.0}
        if job.checkpoint.exists():
            self._load()
        self._wall_start = time.monotonic() - self.state["seconds"]
        self._cpu_start = WORKERS * time.process_time() - self.state["cpu_seconds"]

    def go(self) -> None:
        settings = self.job.settings
        saved_at = reported_at = time.monotonic()
        recent: list[float] = []
        recent_tokens = 0
        for batch, place in self._batches():
            if os.getppid() != self._parent:
                raise SystemExit("the build has ended")
            loss, tokens = self._step(batch)
            done = self._advance(place, tokens)
            recent.append(loss)
            recent_tokens += tokens
            if self.rank != 0:
                continue
            now = time.monotonic()
            if done or now - reported_at > 20:
                speed = recent_tokens / (now - reported_at)
                left = max(0, settings.tokens - self.state["tokens"]) / speed / 60
                self.job.report(
                    f"step {self.state['step']}  {self.state['tokens'] / 1e6:.2f} M "
                    f"tokens  loss {sum(recent) / len(recent):.3f}  "
                    f"{speed:,.0f} tokens/s  {left:.1f} min left"
                )
                recent, recent_tokens, reported_at = [], 0, now
            if done or now - saved_at > settings.checkpoint_seconds:
                self._save()
                saved_at = time.monotonic()

    def _step(self, members: tuple[Corpus, Ints]) -> tuple[float, int]:
        """Train on a batch; return its mean loss and its number of tokens."""
        corpus, rows = members
        settings = self.job.settings
        lr = settings.lr_at(self.state["tokens"])
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
        seed = settings.seed << 40 | self.state["step"] << 8 | self.rank
        generator = torch.Generator().manual_seed(seed)
        batch = corpus.batch(rows[self.rank :: WORKERS])
        loss, count = batch_loss(self.model, batch, self.job.placeholder, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = self._share_gradients(loss.item(), count)
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return mean_loss, batch.ids.shape[1] * len(rows)

    def _share_gradients(self, loss: float, count: int) -> float:
        """Make the gradients those of the whole batch's mean loss; return it."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        totals = torch.tensor([loss, count])
        flat = torch.cat([g.reshape(-1) for g in gradients] + [totals])
        distributed.all_reduce(flat)
        total_loss, total_count = flat[-2:].tolist()
        flat /= total_count
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return float(total_loss / total_count)

    def _batches(self) -> Iterator[tuple[tuple[Corpus, Ints], tuple[int, int]]]:
        """Batches from the state's place on, each with the place after it."""
        settings = self.job.settings
        while self.state["tokens"] < settings.tokens:
            number = self.state["epoch"]
            corpus = self.job.epoch(number, self.rank == 0)
            order = corpus.batches(settings.batch_tokens, [settings.seed, number])
            for position in range(self.state["position"], len(order)):
                last = position + 1 == len(order)
                after = (number + 1, 0) if last else (number, position + 1)
                yield (corpus, order[position]), after
                if self.state["tokens"] >= settings.tokens:
                    return

    def _advance(self, place: tuple[int, int], tokens: int) -> bool:
        self.state["epoch"], self.state["position"] = place
        self.state["step"] += 1
        self.state["tokens"] += tokens
        self.state["seconds"] = time.monotonic() - self._wall_start
        # The processes do equal work, so one's time stands for all.
        self.state["cpu_seconds"] = WORKERS * time.process_time() - self._cpu_start
        return bool(self.state["tokens"] >= self.job.settings.tokens)

    def _save(self) -> None:
        beside = self.job.checkpoint.with_suffix(".new")
        values = {
            "settings": asdict(self.job.settings),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": self.state,
        }
        torch.save(values, beside)
        beside.replace(self.job.checkpoint)

    def _load(self) -> None:
        saved = torch.load(self.job.checkpoint, weights_only=True)
        settings = asdict(self.job.settings)
        if saved["settings"] != settings:
            raise ValueError(
                f"{self.job.checkpoint} was made with {saved['settings']}, not with "
                f"{settings}: delete it to begin anew"
            )
        self.model.load_state_dict(saved["model"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.state = saved["state"]
        if self.rank == 0:
            self.job.report(f"going on at {self.state['tokens']:,} tokens")


def reset_rare_rows(model: GemmaForCausalLM, counts: Tensor, least: int, keep: list[int]) -> int:
    """Give tokens that were hardly seen the mean embedding; return how many.

    Pieces that only exist as steps towards longer ones keep a nearly untrained
    row, which would stand in the lists of nearest tokens of any direction.
    """
    rare = counts < least
    rare[keep] = False
    with torch.no_grad():
        weight = model.model.embed_tokens.weight
        weight[rare] = weight[~rare].mean(dim=0)
    return int(rare.sum())


def _optimizers(model: GemmaForCausalLM, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    embedding = model.model.embed_tokens.weight
    hidden = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    norms = [p for p in model.parameters() if p.ndim < 2]
    muon = torch.optim.Muon(
        hidden,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [embedding], "weight_decay": settings.weight_decay},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    return [muon, adamw]
