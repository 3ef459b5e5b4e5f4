"""Make the golden numbers of DPO with the official implementation: policies after 1 and after 20 updates.

    ENVIRONMENT/bin/python scripts/golden/make_preference_golden.py --dpo FOLDER

FOLDER is a checkout of github.com/eric-mitchell/direct-preference-optimization, commit
f8b8c0f49dc92a430bae41585f9d467d3618fe2f; the environment needs torch 2.13.0 and NumPy. `preference.json` holds the commit and
the settings.

Two official functions of trainers.py run as they are: `_get_batch_logps`, which sums log-probabilities over the tokens of an
answer, and `preference_loss`. Around them, this is what is not theirs:

- A token is an action here: a small network gives the logits of each decision from its own observation, not a language model
  from the tokens before it. The shift of labels by one token is undone by a first label and last logits that are not looked at.
- trainers.py imports packages that these functions do not use; objects that do nothing stand for them.
- Parameters are moved by Adam, as everywhere in this library; the official default is RMSprop.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from make_golden import (
    CHOICES,
    HIDDEN,
    KEPT,
    LEARNING_RATE,
    OBSERVATION,
    UPDATES,
    Arrays,
    about_source,
    make_network,
    named,
    put_torch,
    rounded,
    torch_layers,
)

PAIRS, LENGTH = 8, 4
IGNORED = -100
"""The official label of a token that does not count."""
NOT_USED = (
    "transformers", "omegaconf", "tensor_parallel", "preference_datasets", "utils", "wandb", "tqdm",
    "torch.distributed.fsdp", "torch.distributed.fsdp.api", "torch.distributed.fsdp.wrap",
)  # fmt: skip


def main() -> None:
    """Make the numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dpo", type=Path, required=True, help="folder of a checkout")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()
    import torch

    runs = {
        "dpo": {"beta": 0.5, "label_smoothing": 0.0, "learning_rate": LEARNING_RATE},
        "dpo_smoothed": {"beta": 2.0, "label_smoothing": 0.2, "learning_rate": LEARNING_RATE},
    }
    arrays = inputs()
    for run, settings in runs.items():
        arrays |= trained(official(arguments.dpo), arrays, run, settings)
    np.savez_compressed(arguments.to / "dpo.npz", **arrays)
    about = {
        "made_by": "scripts/golden/make_preference_golden.py",
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__},
        "sources": {"dpo": about_source("eric-mitchell/direct-preference-optimization", arguments.dpo)},
        "runs": runs,
    }
    (arguments.to / "preference.json").write_text(json.dumps(about, indent=2) + "\n")


def inputs() -> Arrays:
    """Batches of pairs, (update, side, pair, decision, ...), in which segments have 1 to 4 decisions; and first parameters."""
    rng = np.random.default_rng(31)
    shape = (UPDATES, 2, PAIRS, LENGTH)
    lengths = rng.integers(1, LENGTH + 1, shape[:-1])
    networks = {name: make_network(rng, OBSERVATION, CHOICES) for name in ("actor", "reference")}
    return {
        "obs": rounded(rng.standard_normal((*shape, OBSERVATION))),
        "action": rng.integers(CHOICES, size=shape).astype(np.int32),
        "valid": (np.arange(LENGTH) < lengths[..., None]).astype(np.float32),
        **named(networks, "start"),
    }


def official(checkout: Path) -> Any:
    """The module trainers.py."""
    empty = {name: mock.MagicMock() for name in NOT_USED}
    with mock.patch.dict(sys.modules, empty), mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module("trainers")


def trained(trainers: Any, arrays: Arrays, run: str, settings: dict[str, float]) -> Arrays:
    """Parameters of the policy after 1 and 20 updates, and the loss of every update."""
    import torch

    def network(name: str) -> tuple[Any, list]:
        sizes = [OBSERVATION, *HIDDEN, CHOICES]
        linear = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        ends = np.cumsum([a * b + b for a, b in itertools.pairwise(sizes)])
        parts = np.split(arrays[f"start/{name}"], ends[:-1])
        put_torch(
            linear, [(p[: a * b].reshape(a, b), p[a * b :]) for p, a, b in zip(parts, sizes, sizes[1:], strict=False)]
        )
        return torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1], torch.nn.ReLU(), linear[2]), linear

    (policy, linear), (reference, _) = network("actor"), network("reference")
    adam = torch.optim.Adam(policy.parameters(), lr=settings["learning_rate"])

    def log_probs(model: Any, obs: np.ndarray, action: np.ndarray, valid: np.ndarray) -> Any:
        logits = model(torch.from_numpy(obs))
        logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
        labels = np.where(valid > 0, action, IGNORED)
        labels = np.concatenate([np.zeros_like(labels[:, :1]), labels], axis=1)
        return trainers._get_batch_logps(logits, torch.from_numpy(labels.astype(np.int64)))

    found, losses = {}, []
    for update in range(UPDATES):
        sides = [[arrays[name][update, side] for name in ("obs", "action", "valid")] for side in (0, 1)]
        ours = [log_probs(policy, *side) for side in sides]
        with torch.no_grad():
            theirs = [log_probs(reference, *side) for side in sides]
        each, _, _ = trainers.preference_loss(
            *ours, *theirs, beta=settings["beta"], label_smoothing=settings["label_smoothing"]
        )
        adam.zero_grad()
        each.mean().backward()
        adam.step()
        losses.append(each.detach().mean().item())
        if update + 1 in KEPT:
            found |= named({"actor": torch_layers(linear)}, f"{run}/after_{update + 1}")
    return found | {f"{run}/loss": np.array(losses, np.float32)}


if __name__ == "__main__":
    main()
