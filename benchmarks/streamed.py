"""Memory and CPU time of learning on long sequences: whole, by segments, streamed, and by autograd.

    python benchmarks/streamed.py

Two causal blocks of width 64 with reversible oscillators, batch 8. Each case runs in a process of its own; `memory` is
how much the peak of resident memory grew over that of the same process after 64 tokens.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

from holonomy.core.flat import FlatParams
from holonomy.core.nograd import no_autograd
from holonomy.learn.echo import Part, echo_statistics
from holonomy.learn.segments import segmented_statistics
from holonomy.models.lior.config import EchoConfig, LiorConfig, ModelConfig, TrainConfig
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.oscillator import OscillatorMixer

LENGTHS, SEGMENT, BATCH, VOCABULARY = (64, 512, 4096), 32, 8, 65
WAYS = ("autograd", "whole", "segment", "streamed", "streamed fixed point")


def measure(way: str, length: int) -> dict[str, float]:
    """Peak memory in MB and CPU-seconds of one set of statistics."""
    torch.set_num_threads(1)
    model = ModelConfig(architecture="causal_field", blocks=2, d=64, n_osc=64, hidden=64, fir=1, bank="hamiltonian")
    config = LiorConfig(model=model, train=TrainConfig(echo=EchoConfig(fixed="fixed" in way)))
    net, loss = build_network(config, vocab_size=VOCABULARY), SoftmaxCrossEntropy()
    for mixer in (m for m in net.modules() if isinstance(m, OscillatorMixer)):
        # Undamped oscillators swing up with the root of the time; fixed point holds +-1024.
        mixer.inp.weight.data *= 0.3
    acc = FlatParams(net, frozenset()).statistics()

    def run(tokens: int) -> None:
        ids = torch.randint(VOCABULARY, (BATCH, tokens + 1), generator=torch.Generator().manual_seed(0))
        inputs, targets = ids[:, :-1], ids[:, 1:]
        if way == "autograd":
            loss.free(net(inputs), targets, None).backward()
            return
        with no_autograd():
            if way == "whole":
                echo_statistics(net, loss, Part(inputs, targets, targets.numel()), acc)
            else:
                streamed = way.startswith("streamed")
                segmented_statistics(net, loss, inputs, targets, acc, length=SEGMENT, streamed=streamed)

    run(64)
    before, begin = peak(), time.process_time()
    run(length)
    return {"memory": peak() - before, "cpu_s": time.process_time() - begin}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    print(f"{'way':22}" + "".join(f"{f'T = {n}: MB, CPU-s':>24}" for n in LENGTHS))
    for way in WAYS:
        cells = []
        for length in LENGTHS:
            command = [sys.executable, __file__, way, str(length)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            cells.append(f"{found['memory']:12.1f}{found['cpu_s']:12.2f}")
        print(f"{way:22}" + "".join(cells), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
