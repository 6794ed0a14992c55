"""The compiled kernel that binds words to keys of contexts and adds them up."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import compiled


@lru_cache(maxsize=1)
def binding() -> Any:
    """`bind(store, load, words, placed, rows, symbols, targets, weights)`: adds weights * round(4096 key word).

    The key of order n is the product of `placed[j, c]` over the n - 1 nearest symbols c, nearest first. Column j of
    `rows` is the address for order j + 2, negative if there is none. Products of one pair never depend on another
    pair, so batches, merging and unlearning agree to the last bit.
    """
    import numpy as np

    def bind(store, load, words, placed, rows, symbols, targets, weights):
        channels = words.shape[1]
        key, held = np.empty(16, dtype=np.float32), np.empty(16, dtype=np.float32)
        last = symbols.shape[1] - 1
        for b in range(len(targets)):
            for k in range(channels):
                word = words[targets[b], k]
                for n in range(rows.shape[1]):
                    if rows[b, n] < 0:
                        break
                    step = placed[n, symbols[b, last - n], k]
                    if n == 0:
                        key[:] = step
                    else:
                        held[:] = key
                        for i in range(4):
                            for j in range(4):
                                total = held[4 * i] * step[j] + held[4 * i + 1] * step[4 + j]
                                total += held[4 * i + 2] * step[8 + j] + held[4 * i + 3] * step[12 + j]
                                key[4 * i + j] = total
                    if weights[b, n] == 0:
                        continue
                    place = store[rows[b, n], k]
                    for i in range(4):
                        for j in range(4):
                            total = key[4 * i] * word[j] + key[4 * i + 1] * word[4 + j]
                            total += key[4 * i + 2] * word[8 + j] + key[4 * i + 3] * word[12 + j]
                            place[4 * i + j] += np.int32(weights[b, n]) * np.int32(np.rint(np.float32(4096) * total))
            for n in range(rows.shape[1]):
                if rows[b, n] < 0:
                    break
                load[rows[b, n]] += weights[b, n]

    return compiled(bind, exact=True)
