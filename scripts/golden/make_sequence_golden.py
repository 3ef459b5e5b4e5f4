"""Make the golden numbers of DecisionTransformer: what its official code computes in 20 updates on fixed batches.

tests/algorithms/test_decision_transformer.py holds this library's algorithm to the numbers. They were made once, with the
packages of `scripts/golden/requirements.txt`:

    ENVIRONMENT/bin/python scripts/golden/make_sequence_golden.py FOLDER

FOLDER is a Git checkout of github.com/kzl/decision-transformer at e2d82e68f330c00f763507b3b01d774740bee53f; none of its
code is kept here. Written to tests/golden: `decision_transformer.npz`, the batches, the first parameters by their official
names, and the parameters after 1 and after 20 updates; and `sequence.json`, the commit, versions and settings.

The official model and the official update (`gym/decision_transformer/models`, `training/seq_trainer.py`) run as they are.
Around them, this is what is not theirs:

- The model is small: 2 blocks of width 8 with 2 heads, pieces of 4 steps, 9 positions, no dropout.
- Parameters, of biases and normalisations too, are drawn here as multiples of 1/1024, and batches likewise.
- The package `transformers` 4.5 is not installed. Of it the model uses a configuration, an activation, a linear layer
  (`Conv1D`), a base class and a tuple with names; the pieces below stand for them.
- Pieces that are shorter are padded on the left, as the official `get_batch` does, which is a function inside a function and
  cannot be called alone.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_golden import about_source

UPDATES, ROWS, LENGTH, POSITIONS, OBSERVATION, ACTION = 20, 6, 4, 9, 3, 2
MODEL = {"n_layer": 2, "n_head": 2, "n_inner": 32, "activation_function": "relu", "resid_pdrop": 0.0, "attn_pdrop": 0.0}
WIDTH = 8
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-2, 1e-2, 5


class Conv1D(torch.nn.Module):
    """x W + b, as `transformers` has it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(nx, nf))
        self.bias = torch.nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class PreTrainedModel(torch.nn.Module):
    """What the official model asks of its base class."""

    dtype = torch.float32

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def init_weights(self) -> None:
        """Parameters are set afterwards."""

    def get_head_mask(self, head_mask: Any, layers: int) -> list[None]:
        """No head is left out."""
        return [None] * layers


class Output(dict):
    """A tuple with names."""


def config(**given: Any) -> types.SimpleNamespace:
    """A configuration of `transformers`: what is given, and its defaults for the rest; no dropout of embeddings."""
    defaults = {
        "n_ctx": 1024, "layer_norm_epsilon": 1e-5, "embd_pdrop": 0.0, "add_cross_attention": False, "use_cache": False,
        "output_attentions": False, "output_hidden_states": False, "use_return_dict": True,
    }  # fmt: skip
    return types.SimpleNamespace(**(defaults | given))


def stand_in_for_transformers() -> None:
    """Put modules in the place of `transformers` that have what the official files import."""

    def plain(*_: Any, **__: Any) -> Any:
        return lambda function: function

    logging = types.SimpleNamespace(get_logger=lambda name: None)
    contents: dict[str, dict[str, Any]] = {
        "transformers": {"GPT2Config": config},
        "transformers.activations": {"ACT2FN": {"relu": torch.nn.functional.relu}},
        "transformers.file_utils": dict.fromkeys(
            ("add_code_sample_docstrings", "add_start_docstrings", "add_start_docstrings_to_model_forward",
             "replace_return_docstrings"), plain,
        ) | {"ModelOutput": object},
        "transformers.modeling_outputs": {"BaseModelOutputWithPastAndCrossAttentions": Output},
        "transformers.modeling_utils": {
            "Conv1D": Conv1D, "PreTrainedModel": PreTrainedModel, "SequenceSummary": None,
            "find_pruneable_heads_and_indices": None, "prune_conv1d_layer": None,
        },
        "transformers.utils": {"logging": logging},
        "transformers.utils.model_parallel_utils": {"assert_device_map": None, "get_device_map": None},
        "transformers.models.gpt2.configuration_gpt2": {"GPT2Config": config},
    }  # fmt: skip
    for name in ("transformers.models", "transformers.models.gpt2", *contents):
        module = types.ModuleType(name)
        vars(module).update(contents.get(name, {}))
        sys.modules[name] = module


def rounded(array: np.ndarray) -> np.ndarray:
    """Multiples of 1/1024."""
    return (np.round(array * 1024) / 1024).astype(np.float32)


def make_batches() -> dict[str, np.ndarray]:
    """Pieces of episodes, (updates, rows, steps, ...), at the start of their rows; `lengths` says how many steps there are."""
    rng = np.random.default_rng(0)
    shape = (UPDATES, ROWS, LENGTH)
    return {
        "obs": rounded(rng.normal(size=(*shape, OBSERVATION))),
        "action": rounded(rng.uniform(-1, 1, (*shape, ACTION))),
        "return_to_go": rounded(rng.normal(size=shape)),
        "first": rng.integers(0, POSITIONS - LENGTH, shape[:2]).astype(np.int32),
        "lengths": rng.integers(1, LENGTH + 1, shape[:2]).astype(np.int32),
    }


def padded(batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    """One batch as `SequenceTrainer` takes it: what is missing stands on the left, and one more return follows."""
    obs, action = np.zeros_like(batch["obs"]), np.full_like(batch["action"], -10.0)
    returns, steps, mask = (
        np.zeros((ROWS, LENGTH + 1, 1), np.float32),
        np.zeros((ROWS, LENGTH)),
        np.zeros((ROWS, LENGTH)),
    )
    for row, (first, count) in enumerate(zip(batch["first"], batch["lengths"], strict=True)):
        at = slice(LENGTH - count, LENGTH)
        obs[row, at], action[row, at] = batch["obs"][row, :count], batch["action"][row, :count]
        returns[row, at, 0], steps[row, at], mask[row, at] = (
            batch["return_to_go"][row, :count],
            first + np.arange(count),
            1,
        )
    none = torch.zeros(ROWS, LENGTH, 1)
    whole = torch.from_numpy
    return whole(obs), whole(action), none, none, whole(returns), whole(steps).long(), whole(mask)


def main() -> None:
    """Run the official updates and write what they give."""
    checkout, target = Path(sys.argv[1]), Path(__file__).parents[2] / "tests" / "golden"
    source = about_source("kzl/decision-transformer", checkout)
    stand_in_for_transformers()
    sys.path.insert(0, str(checkout / "gym"))
    from decision_transformer.models.decision_transformer import DecisionTransformer
    from decision_transformer.training.seq_trainer import SequenceTrainer

    model = DecisionTransformer(
        OBSERVATION, ACTION, WIDTH, max_length=LENGTH, max_ep_len=POSITIONS, n_positions=1024, **MODEL
    )
    rng = np.random.default_rng(1)
    # What the loss does not reach has no gradient, and the official optimiser leaves it as it is.
    used = {name: p for name, p in model.named_parameters() if not name.startswith(("predict_state", "predict_return"))}
    used.pop("transformer.wte.weight")
    arrays = {f"batch/{name}": array for name, array in make_batches().items()}
    for name, parameter in used.items():
        start = rounded(0.3 * rng.normal(size=tuple(parameter.shape)) + ("ln" in name and name.endswith("weight")))
        parameter.data = torch.from_numpy(start.copy())
        arrays[f"start/{name}"] = start
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = iter(padded({k: v[u] for k, v in make_batches().items()}) for u in range(UPDATES))
    trainer = SequenceTrainer(
        model=model,
        optimizer=optimizer,
        batch_size=ROWS,
        get_batch=lambda batch_size: next(batches),
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda steps: min((steps + 1) / WARMUP, 1)),
        loss_fn=lambda s_hat, a_hat, r_hat, s, a, r: torch.mean((a_hat - a) ** 2),
    )
    model.train()
    losses = []
    for update in range(1, UPDATES + 1):
        losses.append(trainer.train_step())
        trainer.scheduler.step()
        if update in (1, UPDATES):
            arrays |= {f"after_{update}/{name}": parameter.detach().numpy().copy() for name, parameter in used.items()}
    arrays["losses"] = np.array(losses)
    np.savez_compressed(target / "decision_transformer.npz", **arrays)
    settings = {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "warmup_updates": WARMUP, "width": WIDTH}
    about = source | {"torch": torch.__version__, "numpy": np.__version__, "settings": settings | MODEL}
    (target / "sequence.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
