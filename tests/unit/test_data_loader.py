import itertools
import re
import sys

import numpy as np
import pytest
import torch

from mmssl.data import Batch, Labels, Order, Source, batches, loader
from mmssl.draws import keys
from mmssl.modality import Adapter, MaskPreference, Modality, Others, Processor, pad_stack

LOADER = sys.modules["mmssl.data.loader"]  # the package exports the function of that name


class Digits(Processor):
    """A number as the tensor of its digits; refuses what is no natural number."""

    def __init__(self):
        self.calls = 0

    def settings(self):
        return {}

    def __call__(self, raw):
        self.calls += 1
        if raw == "bug":
            raise KeyError("a bug, not a bad sample")
        if not isinstance(raw, int):
            raise TypeError(f"a number is required; got {raw!r}. Drop the row")
        return {"digits": torch.tensor([int(digit) for digit in str(raw)])}

    def collate(self, samples):
        return {"digits": pad_stack([sample["digits"] for sample in samples], -1.0)}

    def features(self, inputs):
        return inputs["digits"].numpy()


class Parity(Processor):
    """A whole row as the parity of its numbers."""

    def settings(self):
        return {}

    def __call__(self, raw):
        if raw["a"] == 13:
            raise ValueError("13 brings bad luck")
        return {"parity": torch.tensor([raw[name] % 2 for name in sorted(raw)])}

    def collate(self, samples):
        return {"parity": torch.stack([sample["parity"] for sample in samples])}

    def features(self, inputs):
        return inputs["parity"].numpy()


def modality(name, columns, processor):
    return Modality(name, name, columns, processor, Adapter, dict, MaskPreference("random", 0.5), list, tuple, dict)


NUMBER = modality("number", ("a",), Digits)
PAIR = modality("pair", (), Parity)

# A worker process is forked from one with threads, which newer versions of Python warn about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def numbers(*values):
    return Source.from_rows([{"a": value, "b": 2} for value in values])


def read(source, batch_size=4, *, modalities=None, **options):
    options = {"order": Order(len(source), seed=5), "end_step": 4, "seed": 7} | options
    return loader(source, modalities or {"number": (NUMBER, Digits())}, batch_size=batch_size, **options)


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.ids, other.ids)
        assert one.skipped == other.skipped
        assert one.inputs.keys() == other.inputs.keys()
        for name, tensors in one.inputs.items():
            assert all(torch.equal(x, other.inputs[name][key]) for key, x in tensors.items())
        assert (one.labels is None) == (other.labels is None)
        assert one.labels is None or torch.equal(one.labels, other.labels)


SOURCE = numbers(*range(95, 105))


def test_batch_holds_processed_rows_keys_and_labels():
    labels = Labels("classification", ["even", "odd"], np.arange(95, 105) % 2)
    modalities = {"number": (NUMBER, Digits()), "pair": (PAIR, Parity())}
    for step, batch in enumerate(read(SOURCE, modalities=modalities, labels=labels)):
        ids = Order(10, seed=5).rows(4 * step, 4)
        assert batch.ids.tolist() == ids.tolist()
        assert torch.equal(batch.keys, keys(7, step, torch.from_numpy(ids)))
        written = ["".join(str(d) for d in row if d >= 0) for row in batch.inputs["number"]["digits"].tolist()]
        assert written == [str(95 + i) for i in ids]
        assert batch.inputs["pair"]["parity"].tolist() == [[(95 + i) % 2, 0] for i in ids]
        assert batch.labels.tolist() == [(95 + i) % 2 for i in ids]
        assert (len(batch), batch.skipped) == (4, ())
    assert step == 3


def test_processes_and_micro_batches_share_the_same_samples():
    def step(world, micro_batches):
        parts = [list(read(SOURCE, 8, rank=r, world=world, micro_batches=micro_batches)) for r in range(world)]
        assert [len(part) for part in parts] == [4 * micro_batches] * world
        return [
            torch.cat([choose(b) for part in parts for b in part[s * micro_batches : (s + 1) * micro_batches]]).tolist()
            for s in range(4)
            for choose in (lambda batch: batch.ids, lambda batch: batch.keys)
        ]

    assert step(1, 1) == step(2, 1) == step(1, 4) == step(2, 4) == step(8, 1)


def test_resumed_equals_uninterrupted():
    parts = [read(SOURCE, micro_batches=2, start_step=start, end_step=start + 3) for start in (0, 3)]
    assert_same(itertools.chain(*parts), read(SOURCE, micro_batches=2, end_step=6))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches(workers):
    options = {"labels": Labels("regression", [], np.arange(10, dtype=np.float32)), "end_step": 7}
    assert_same(read(SOURCE, workers=workers, **options), read(SOURCE, **options))


def test_without_an_end_batches_never_end():
    assert len(list(itertools.islice(read(SOURCE, end_step=None), 100))) == 100


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(workers):
    before = torch.get_rng_state()
    list(read(SOURCE, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_pass_in_order():
    found = list(batches(SOURCE, {"number": (NUMBER, Digits())}, 4))
    assert [batch.ids.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert_same(batches(SOURCE, {"number": (NUMBER, Digits())}, 4, workers=1), found)


def test_batch_says_where_it_is_from():
    found = list(read(SOURCE, start_step=2, name="numbers", micro_batches=2))
    assert [(batch.source, batch.step) for batch in found] == [("numbers", 2)] * 2 + [("numbers", 3)] * 2
    assert next(batches(SOURCE, {"number": (NUMBER, Digits())}, 4)).source == ""


def test_batch_moves_as_a_whole():
    pair = torch.arange(2), torch.ones(1, dtype=torch.int64)
    batch = Batch({"x": {"y": torch.ones(2)}}, torch.arange(2), torch.arange(2), torch.zeros(2), ("why",)).to("meta")
    tensors = [batch.inputs["x"]["y"], batch.keys, batch.ids, batch.labels]
    assert [x.device.type for x in tensors] == ["meta"] * 4
    assert batch.skipped == ("why",)
    half = Batch({"x": {"y": torch.ones(1)}}, torch.arange(1), torch.arange(1), others={"x": Others({"y": torch.ones(2)}, *pair)})
    moved = half.to("meta").others["x"]
    assert [x.device.type for x in (moved.inputs["y"], moved.keys, moved.place)] == ["meta"] * 3
    assert Batch({}, torch.arange(2), torch.arange(2)).to("cpu").labels is None


@pytest.mark.gpu
def test_pinned_batches_move_to_the_device():
    for workers in (0, 1):
        batch = next(read(SOURCE, pin_memory=True, workers=workers))
        assert all(x.is_pinned() for x in (batch.inputs["number"]["digits"], batch.keys, batch.ids))
        assert_same([batch.to("cuda").to("cpu")], [next(read(SOURCE))])


# The cache


def test_cache_processes_each_sample_once():
    processor = Digits()
    cached = list(read(SOURCE, modalities={"number": (NUMBER, processor)}, cache=True, end_step=10))
    assert processor.calls == 10
    assert_same(cached, read(SOURCE, end_step=10))


def test_cache_remembers_bad_samples():
    source = numbers(1, 2, None, 4)
    options = {"on_error": "skip", "end_step": 3}
    assert_same(read(source, cache=True, **options), read(source, **options))


def test_cache_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(LOADER, "CACHE_SHARE", 0.0)
    with pytest.raises(ValueError, match=r"cache=true would keep about 0\.0 GiB .* set cache=false"):
        next(read(SOURCE, cache=True))
    with pytest.raises(ValueError, match=r"cache=true needs workers=0 .*; got workers=2"):
        read(SOURCE, cache=True, workers=2)


# Bad samples


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_sample_is_named(workers):
    message = "row 2 of rows in memory, column a: a number is required; got None. Drop the row"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(read(numbers(1, 2, None, 4), workers=workers))
    with pytest.raises(ValueError, match=r"^row 1 of rows in memory, modality pair: 13 brings bad luck$"):
        list(batches(numbers(1, 13), {"pair": (PAIR, Parity())}, 2, workers=workers))


def test_row_numbers_are_those_of_the_data_under_limit():
    source = Source(path="bundled:wine", limit=10)
    name = modality("name", ("target",), Digits)
    with pytest.raises(ValueError, match=r"^row 160 of bundled:wine, column target: a number is required; got 'class_2'"):
        list(loader(source, {"name": (name, Digits())}, order=SingleRow(10), batch_size=1, end_step=1, seed=0))


class SingleRow(Order):
    """Visits the last row only."""

    def __init__(self, num_samples):
        super().__init__(num_samples, seed=0)

    def rows(self, start, count):
        return np.full(count, self.num_samples - 1)


def test_missing_media_file_is_a_bad_sample():
    class Reader(Digits):
        def __call__(self, raw):
            raise FileNotFoundError("no file x.png")

    with pytest.raises(ValueError, match=r"^row . of rows in memory, column a: no file x\.png$"):
        list(read(SOURCE, modalities={"number": (NUMBER, Reader())}))


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_samples_are_left_out_with_a_message(workers):
    labels = Labels("regression", [], np.arange(4, dtype=np.float32))
    (batch,) = batches(numbers(1, None, 3, 4), {"number": (NUMBER, Digits())}, 4, labels=labels, on_error="skip", workers=workers)
    assert batch.ids.tolist() == [0, 2, 3]
    assert batch.inputs["number"]["digits"].tolist() == [[1], [3], [4]]
    assert batch.labels.tolist() == [0.0, 2.0, 3.0]
    assert torch.equal(batch.keys, keys(0, 0, torch.tensor([0, 2, 3])))
    assert batch.skipped == ("row 1 of rows in memory, column a: a number is required; got None. Drop the row",)


@pytest.mark.parametrize("workers", [0, 1])
def test_wholly_bad_batch_counts_as_nothing_when_skipping(workers):
    source, modalities = numbers(1, 2, None, None), {"number": (NUMBER, Digits())}
    (batch,) = batches(source, modalities, 2, on_error="skip", workers=workers)
    assert batch.ids.tolist() == [0, 1]
    order = Order(4, 0, shuffle=False)
    read = loader(source, modalities, order=order, batch_size=2, seed=0, end_step=3, on_error="skip", workers=workers)
    assert [len(each) for each in read] == [2, 0, 2]
    empty = next(loader(source, modalities, order=order, batch_size=2, seed=0, start_step=1, on_error="skip"))
    assert (empty.inputs, empty.ids.tolist(), len(empty.skipped)) == ({}, [], 2)


def test_the_share_of_bad_samples_decides_whatever_the_batch():
    few = numbers(*[1, None, 1, None, 1] * 4)
    for size in (1, 7, 19):
        assert sum(map(len, batches(few, {"number": (NUMBER, Digits())}, size, on_error="skip"))) == 12


def test_data_that_can_no_longer_be_read_stop_also_when_skipping():
    gone = numbers(*[1] * 1000, *[None] * 1500)
    with pytest.raises(ValueError, match=r"^the last 1000 samples were all skipped; the last one: row 1999 of rows in memory"):
        list(batches(gone, {"number": (NUMBER, Digits())}, 20, on_error="skip"))


def test_too_many_bad_samples_stop_also_when_skipping():
    few = numbers(*[1, None] * 30)
    assert sum(len(b.skipped) for b in batches(few, {"number": (NUMBER, Digits())}, 3, on_error="skip")) == 30
    many = numbers(*[1, None, None] * 400)
    with pytest.raises(ValueError, match=r"^502 of the first 753 samples were skipped \(allowed: 50% of 1000\); the last one: "):
        list(batches(many, {"number": (NUMBER, Digits())}, 3, on_error="skip"))
    late = numbers(*[1] * 1000, *[1, None, None] * 400)
    assert sum(len(b.skipped) for b in batches(late, {"number": (NUMBER, Digits())}, 4, on_error="skip")) == 800


def test_bugs_are_never_skipped():
    with pytest.raises(KeyError, match="a bug, not a bad sample"):
        list(batches(numbers(1, "bug"), {"number": (NUMBER, Digits())}, 2, on_error="skip"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "batch_size must be between 1 and the 10 rows of rows in memory; got 11"),
        ({"batch_size": 0}, "batch_size must be between 1 and the 10 rows of rows in memory; got 0"),
        ({"batch_size": 8, "world": 3}, "batch_size must be a multiple of processes x micro-batches = 3; got 8: 6 and 9 are"),
        ({"order": Order(9, seed=0)}, "the order must cover rows in memory: it has 9 samples, the source 10"),
        (
            {"labels": Labels("regression", [], np.zeros(3, dtype=np.float32))},
            "labels must have one value per row of rows in memory: expected 10, got 3",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(SOURCE, **options)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        batches(SOURCE, {"number": (NUMBER, Digits())}, 0)


def test_missing_column_is_refused_at_once():
    with pytest.raises(LookupError, match=r"no column for 'other' \(looked for c\); it has a, b"):
        read(SOURCE, modalities={"other": (modality("other", ("c",), Digits), Digits())})


class Together(Digits):
    """Processes whole batches; counts them."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def batch(self, raws):
        self.batches += 1
        return super().batch(raws)


def test_a_batch_with_a_bad_row_is_read_once():
    processor = Digits()
    pair = {"number": (modality("number", ("a",), Digits), processor)}
    (batch,) = batches(numbers(1, "x", 4, 5), pair, 4, on_error="skip")
    assert (batch.ids.tolist(), len(batch.skipped), processor.calls) == ([0, 2, 3], 1, 4)


def test_the_rows_of_a_batch_are_processed_together_and_a_bad_one_is_still_named():
    processor = Together()
    together = {"number": (modality("number", ("a",), Together), processor)}
    good = list(batches(numbers(1, 23, 4, 5), together, 2))
    assert processor.batches == 2
    assert [batch.inputs["number"]["digits"].shape for batch in good] == [(2, 2), (2, 1)]
    found = list(batches(numbers(1, "x", 4, 5), together, 4, on_error="skip"))
    assert found[0].ids.tolist() == [0, 2, 3]
    assert len(found[0].skipped) == 1
    assert "row 1 of rows in memory, column a: a number is required; got 'x'" in found[0].skipped[0]
