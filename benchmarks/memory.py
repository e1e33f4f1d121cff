"""What each process holds of a model under each strategy: the table of memory of docs/scale.md.

    python benchmarks/memory.py

A ViT of 6 layers, 192 wide, with a teacher (I-JEPA) makes two steps of two micro-batches. Counted are the tensors as they
lie in each process: bytes of memory, none twice. The largest of all processes is shown, relative to the parameters that learn.
DeepSpeed's buckets for what it sends are not counted (its file sets their size), nor are activations and buffers.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sharding import OBJECTIVES, Runs, neighbour

from mmssl.training.asked import STRATEGIES

SIZE = ("encoder.hidden_size=192", "encoder.num_hidden_layers=6", "encoder.num_attention_heads=3")


def main(strategies: Sequence[str], counts: Sequence[int]) -> None:
    runs, kinds = Runs(), neighbour("held").KINDS
    print(f"| processes, strategy | {' | '.join(kinds)} | all |\n|---|{'--:|' * (len(kinds) + 1)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        steps = ("train.batch_size=16", "train.accumulation=2", "train.max_steps=2", "data.limit=32")
        arguments = [*neighbour("test_many").CASES[OBJECTIVES["jepa"]].arguments(work), *SIZE, *steps]
        whole = 0
        for count in counts:
            for strategy in strategies:
                folder = work / f"{count}-{strategy}"
                runs.run(folder, count, [*arguments, "--strategy", strategy], held_written_down="held")
                found = [json.loads((folder / f"held-{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]
                most = {kind: max(each[kind] for each in found) for kind in kinds}
                whole = whole or most["parameters"]
                cells = [f"{most[kind] / whole:.2f}" for kind in kinds] + [f"{sum(most.values()) / whole:.2f}"]
                print(f"| {count}, {strategy} | {' | '.join(cells)} |", flush=True)
    print(f"1.00 = {whole:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4])
    options = parser.parse_args()
    main(options.strategies, options.processes)
