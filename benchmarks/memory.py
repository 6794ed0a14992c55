"""What goes along with reading gains on held-out text: associative memory, and a tensor field that moves.

    python benchmarks/memory.py RUN [--root runs] [--tokens 16384]

The loss is that of one stream, nats a token: of the first tokens of the held-out part; of their second half alone,
given the first; and of 2,000 tokens that come a second time, 1,000 others in between. The readers: the model alone (its
state is carried), with memory weighed by trust, by the entropy of the model, and by trust with amplitudes added; for
runs with a field, one that takes a step after every so many tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.infer.language_model import LanguageModel
from holonomy.models.lior.companions import MemoryConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.moving import MovingField, field_of
from holonomy.recipes import launch
from holonomy.recipes.lior import companion, read_corpus

PASSAGE, BETWEEN = 2_000, 1_000


def losses(reader: LanguageModel, ids: Tensor) -> Tensor:
    """Loss of every token but the first."""
    state, found = reader.start(1), []
    for inputs, targets in zip(ids[:-1].split(512), ids[1:].split(512), strict=True):
        log_probs, state = reader.advance(inputs[None], state)
        found.append(-log_probs[0].gather(-1, targets[:, None]).flatten())
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--tokens", type=int, default=16_384)
    given = parser.parse_args()
    tune_process(threads=1)
    model = launch.load(given.run, root=given.root)
    assert isinstance(model, LiorLanguageModel)
    text = torch.from_numpy(read_corpus(model.config.data, model.tokenizer).validation)
    stream = text[: given.tokens]
    passage, between = text[-PASSAGE:], text[-PASSAGE - BETWEEN : -PASSAGE]
    again = torch.cat([passage, between, passage])

    def remembering(**memory: str) -> LanguageModel:
        config = model.config.model_copy(update={"memory": MemoryConfig(**memory)})  # type: ignore[arg-type]
        return companion(LiorLanguageModel(model.net, model.tokenizer, config), memory=True)  # type: ignore[arg-type]

    readers: dict[str, LanguageModel] = {
        "alone": model,
        "by trust": remembering(),
        "by entropy": remembering(weighting="entropy"),
        "as amplitudes": remembering(mixing="born"),
    }
    if field_of(model.net) is not None:
        readers |= {f"field every {pace}": MovingField(model, pace=pace) for pace in (1, 16, 128)}
    print(f"{'reader':15}{'stream':>10}{'second half':>14}{'repetition':>13}", flush=True)
    for name, reader in readers.items():
        found = losses(reader, stream)
        print(f"{name:15}{found.mean():10.4f}{found[len(stream) // 2 :].mean():14.4f}", end="", flush=True)
        # A field learns no passage by heart.
        known = "" if isinstance(reader, MovingField) else f"{losses(reader, again)[-PASSAGE:].mean():13.4f}"
        print(known, flush=True)


if __name__ == "__main__":
    main()
