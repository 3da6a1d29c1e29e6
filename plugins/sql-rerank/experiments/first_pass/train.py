"""Teach a small language model to write SQL: low-rank updates of all its linear layers, loss on the SQL alone.

    python train.py --data SPIDER --model SMOLLM2 --out OUT [--epochs 6] [--minutes 80]

SPIDER: the folder of the data; SMOLLM2: SmolLM2-135M-Instruct as `transformers` saves it. OUT/adapter is what `peft` loads.
A second call goes on from the last checkpoint. `--minutes`: of CPU time, after which the schedule ends, whatever has been seen.
It is a loop of its own, not `sltcore.train`: many questions share one reading of their schema through a mask of their
own, which saves two thirds of the work.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from packing import Packer, Row, seen
from peft import LoraConfig, PeftModel, get_peft_model
from prompts import Prompts
from spider import Spider
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM = 0.03
LOG_EVERY = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and keep the state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "model", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU time, of this call and those before it")
    parser.add_argument("--questions", type=int, default=24, help="in a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="layers by torch.compile: a third more tokens a second")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    spider = Spider(given.data, given.out / "databases")
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    packer = Packer(Prompts(spider), tokenizer, spider.questions("train"))
    base = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.bfloat16, attn_implementation="sdpa")
    lora = LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules=LINEAR, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    if given.compile:
        for layer in model.get_base_model().model.layers:
            layer.compile(dynamic=True)
    Training(model, packer, given).run()


class Training:
    """The loop and its state."""

    def __init__(self, model: PeftModel, packer: Packer, given: argparse.Namespace) -> None:
        self.model, self.packer, self.given = model, packer, given
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=given.rate, weight_decay=0.0, betas=(0.9, 0.98))
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.file = given.out / "state.pt"
        self.total = sum(len(pieces) for pieces in packer.pieces.values())
        if self.file.exists():
            self._load()

    def run(self) -> None:
        """Until the schedule's end."""
        first = self.step
        losses: list[float] = []
        last = saved = time.process_time()
        while self.done < 1.0:
            epoch = self.seen // self.total
            for rows in self._left(epoch):
                losses.append(self._learn(rows))
                self.seconds += time.process_time() - last
                last = time.process_time()
                if self.step % LOG_EVERY == 0:
                    self._log(losses)
                    losses.clear()
                if last - saved > 300:
                    self._save()
                    saved = last
                if self.done >= 1.0:
                    break
            else:
                self.seen = (epoch + 1) * self.total
        if self.step > first:
            self._save()
        for weight in self.trained:
            weight.data = weight.data.to(torch.bfloat16)
        self.model.save_pretrained(self.given.out / "adapter")

    @property
    def done(self) -> float:
        """The share of the schedule that is over, by questions or by time."""
        return max(self.seen / (self.total * self.given.epochs), self.seconds / 60 / self.given.minutes)

    def _left(self, epoch: int) -> list[list[Row]]:
        batches = list(self.packer.epoch(Random(f"{self.given.seed} {epoch}"), self.given.questions))
        skipped, seen_before = 0, self.seen - epoch * self.total
        while batches and skipped < seen_before:
            skipped += sum(int(row.segments.max()) for row in batches.pop(0))
        return batches

    def _learn(self, rows: list[Row]) -> float:
        share = min(1.0, self.done / WARM) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.given.rate * max(share, 0.01)
        count = sum(int((row.targets >= 0).sum()) for row in rows)
        total = 0.0
        for row in rows:
            loss = row_loss(self.model, row) / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seen += sum(int(row.segments.max()) for row in rows)
        return total

    def _log(self, losses: list[float]) -> None:
        line = {"step": self.step, "epochs": round(self.seen / self.total, 3), "minutes": round(self.seconds / 60, 2),
                "done": round(self.done, 4), "loss": round(sum(losses) / len(losses), 4)}  # fmt: skip
        with (self.given.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def _save(self) -> None:
        state = {"weights": [weight.detach() for weight in self.trained], "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "seen": self.seen, "seconds": self.seconds}  # fmt: skip
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def _load(self) -> None:
        state = torch.load(self.file, weights_only=True)
        with torch.no_grad():
            for weight, kept in zip(self.trained, state["weights"], strict=True):
                weight.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]


def row_loss(model: PeftModel, row: Row) -> Tensor:
    """The summed cross entropy of a row's answers, in nats."""
    inner = model.get_base_model()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = inner.model(
            input_ids=row.tokens[None],
            attention_mask=seen(row.segments),
            position_ids=row.positions[None],
            use_cache=False,
        ).last_hidden_state[0]
        told = row.targets >= 0
        logits = inner.lm_head(hidden[told])
    return torch.nn.functional.cross_entropy(logits.float(), row.targets[told], reduction="sum")


if __name__ == "__main__":
    main()
