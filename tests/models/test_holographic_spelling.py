"""Sources of spelled contexts that look far back, against plain Python on strings."""

from __future__ import annotations

import numpy as np
import pytest

from holonomy.data.text import load_text
from holonomy.data.tokenizer import Spelling
from holonomy.data.words import split_characters
from holonomy.models.holographic import spelling as module
from holonomy.models.holographic.config import CountsConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.spelling import DISTANT, REACH, SOURCES, reach_of, scouting

BREAK = 0
TEXT = "\nRome:\n\nb.\nc ab\n\nabc\nab abd\n\nabe ab\nabab\n\n\nxyz\nab"


def of(text: str) -> np.ndarray:
    return np.array([BREAK if c == "\n" else ord(c) - 31 for c in text], dtype=np.int64)


def plain(text: str, whole: bool) -> list[object]:
    """What sources say after a text that is what can be seen of it, or all of it, as strings."""
    lines, starts = text.split("\n"), [0]
    for line in lines[:-1]:
        starts.append(starts[-1] + len(line) + 1)
    seen = [whole or start >= 2 for start in starts]
    above = [whole if n == 0 else lines[n - 1] == "" and (n > 1 or whole) for n in range(len(lines))]
    heads = [lines[n] for n in range(len(lines) - 1) if seen[n] and above[n] and lines[n]][::-1]
    line = (lines[-1], above[-1]) if seen[-1] else None
    long = len(lines) > 1 and (whole or starts[-2] > 0) and str(min(40, len(lines[-2])))
    after = []
    for same in (2, 3, 4):
        places = [n for n in range(same, len(text)) if text[n - same : n] == text[-same:]]
        after.append(text[places[-1]] if places else None)
    return [line, long or None, *(heads + [None] * 2)[:2], *after]


def scouted(tokens: np.ndarray, begins: np.ndarray, ends: np.ndarray, reach: int) -> np.ndarray:
    out = np.empty((len(ends), len(DISTANT)), dtype=np.int64)
    scouting()(tokens, begins, ends, np.arange(100) == BREAK, reach, 3, out)
    return out


@pytest.mark.parametrize("reach", [7, 16, 30, 200])
def test_what_stands_far_back_is_that_of_strings(reach: int) -> None:
    tokens, ends = of(TEXT), np.arange(len(TEXT) + 1)
    found = scouted(tokens, np.zeros_like(ends), ends, reach)
    meanings: list[dict[object, int]] = [{}, {}, {}, {}]
    for end in ends:
        begin = max(0, end - reach)
        for column, said in enumerate(plain(TEXT[begin:end], begin == 0)):
            value = int(found[end, column])
            if said is None:
                assert value == 0, (end, column)
            elif column == 1:
                assert value == 1 + int(str(said)), (end, column)
            elif column >= 4:
                assert value == of(str(said))[0] + 1, (end, column)
            else:
                # One number for each line: that of the present one also says what stands above.
                assert value > 0 and meanings[column].setdefault(said, value) == value, (end, column)
    for values in (meanings[0], *meanings[2:]):
        assert len(set(values.values())) == len(values) and (reach < 16 or len(values) > 1)
    assert all(meanings[3][head] == meanings[2][head] for head in meanings[3])


def test_a_context_says_the_same_whatever_it_is_asked_with() -> None:
    random, tokens = np.random.default_rng(0), of(TEXT * 8)
    begins = np.repeat([0, 60, 200], 100)
    ends = np.sort(begins + random.integers(0, len(tokens) - begins + 1).clip(0, 199))
    begins = np.where(ends >= 200, 200, np.where(ends >= 60, 60, 0))
    whole = scouted(tokens, begins, ends, 25)
    order = random.permutation(len(ends))
    assert np.array_equal(scouted(tokens, begins[order], ends[order], 25), whole[order])
    few = np.empty_like(whole)
    scouting()(tokens, begins, ends, np.arange(100) == BREAK, 25, 1, few)
    assert np.array_equal(few[:, :5], whole[:, :5]) and not few[:, 5:].any() and whole[:, 5:].any()
    for b in range(0, len(ends), 7):
        begin = max(begins[b], ends[b] - 25)
        moved = 0 if begin == begins[b] else 1
        # Whatever stands before what can be seen is another text.
        other = np.concatenate([np.full(moved, 50), tokens[begin : ends[b]]])
        alone = scouted(other, np.zeros(1, dtype=np.int64), np.array([len(other)]), 25)
        assert np.array_equal(alone[0], whole[b])


def test_spelled_contexts_join_what_is_near_and_far() -> None:
    split = split_characters(load_text("pydoc").text[:6000], unk=True)
    spelling = split.tokenizer.spelling
    assert isinstance(spelling, Spelling)
    contexts = of_text(split.train, np.zeros(1, dtype=np.int64))
    near, far = module.spelled(contexts, spelling, [("word0", "char1")])[0], ("word0", "head1")
    mixed = module.spelled(contexts, spelling, [("word0", "char1"), far, ("char1", "after2", "after3")])
    assert np.array_equal(mixed[0], near) and np.array_equal(mixed[1][:, -1], near[:, -1])
    distant = np.empty((len(contexts.ends), len(DISTANT)), dtype=np.int64)
    scouting()(*contexts, spelling.breaks, module.FAR, 3, distant)
    heads = distant[:, DISTANT.index("head1")]
    assert len(np.unique(np.stack([heads, mixed[1][:, 0]], 1), axis=0)) == len(np.unique(heads)) > 3
    assert reach_of([far]) == module.FAR and reach_of([("word0",)]) == REACH and reach_of([]) == 0
    last = Contexts(split.train, contexts.begins[-1:], contexts.ends[-1:])
    assert np.array_equal(module.spelled(last, spelling, [far])[0], mixed[1][-1:])


def test_the_configuration_knows_all_sources() -> None:
    for source in SOURCES:
        assert CountsConfig(spelled=((source,),)).spelled == ((source,),)


def test_words_flow_over_the_ends_of_lines() -> None:
    texts = ("one  two\nthree, so", "one  two three, so", "one  two-three, so")
    tokenizer = split_characters("".join(texts)).tokenizer
    ids = [tokenizer.encode(text) for text in texts]
    contexts = [Contexts(own, np.zeros(1, dtype=np.int64), np.array([len(own)])) for own in ids]
    kinds = [(f"{name}{k}",) for name in ("flow", "word") for k in range(3)]
    found = np.array([[int(a[0, 0]) for a in module.spelled(own, tokenizer.spelling, kinds)] for own in contexts])
    assert np.array_equal(found[0, :3], found[1, :3]) and found[0, 5] != found[1, 5]
    assert np.array_equal(found[1, :3], found[1, 3:]), "without a break both are the same"
    assert np.array_equal(found[2, :2], found[1, :2]) and found[2, 2] != found[1, 2]


def test_joined_sources_are_as_good_as_pairs_of_them() -> None:
    split = split_characters(load_text("pydoc").text[:6000], unk=True)
    contexts = of_text(split.train, np.zeros(1, dtype=np.int64))
    kinds = [("char1", "char3"), ("char1+char3",), ("char3+char1",), ("word0", "char1+char3")]
    pairs, joined, turned, placed = module.spelled(contexts, split.tokenizer.spelling, kinds)
    different = len(np.unique(pairs, axis=0))
    assert len(np.unique(joined)) == len(np.unique(turned)) == different
    for column in (joined, turned, placed[:, :1]):
        assert len(np.unique(np.concatenate([pairs, column], 1), axis=0)) == different
    assert not np.isin(placed[:, 0], joined).any(), "the place counts"
