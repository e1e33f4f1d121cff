"""Sets of the UCR / UEA archive that come with aeon: opened by name, read without importing it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mmssl.data import Source
from mmssl_cli import main
from mmssl_modalities.timeseries import TimeseriesProcessor

TS = """@problemName {name}
@timestamps false
@univariate true
@classLabel true a b
@data
{rows}
"""


@pytest.fixture
def aeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a package of that name with some sets in the way of imports; importing it fails."""

    def made(*names: str) -> None:
        package = tmp_path / "packages" / "aeon"
        for name in names:
            for part, rows in (("TRAIN", "1,2,3:a\n3,2,1:b"), ("TEST", "1,2,4:a")):
                file = package / "datasets" / "data" / name / f"{name}_{part}.ts"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(TS.format(name=name, rows=rows), encoding="utf-8")
        (package / "__init__.py").write_text("raise RuntimeError('nobody needs to import aeon')", encoding="utf-8")
        monkeypatch.syspath_prepend(package.parent)

    return made


def test_a_set_is_opened_by_name(aeon: Callable[..., None]) -> None:
    aeon("Waves", "UnitTest")
    train, test, whole = (Source(path="bundled:ucr/Waves", split=split) for split in ("train", "test", None))
    assert (len(train), len(test), len(whole)) == (2, 1, 3)
    labels = train.labels()
    assert labels is not None and (labels.names, labels.values.tolist()) == (["a", "b"], [0, 1])
    assert np.array_equal(TimeseriesProcessor(normalise="none")(test.rows([0])[0]["series"])["timeseries_values"], [[1, 2, 4]])
    assert whole.parts == ["bundled:ucr/Waves/train", "bundled:ucr/Waves/test"]


def test_an_unknown_set_or_split_is_named_with_those_there_are(aeon: Callable[..., None]) -> None:
    aeon("Waves", "Leaves", "UnitTest")
    message = r"no bundled dataset 'ucr/Wave'; there are ucr/Leaves, ucr/Waves\. Did you mean 'ucr/Waves'\?"
    with pytest.raises(LookupError, match=message):
        Source(path="bundled:ucr/Wave")
    with pytest.raises(LookupError, match="bundled:ucr/Waves has no split 'dev'; it has train, test"):
        Source(path="bundled:ucr/Waves", split="dev")
    with pytest.raises(LookupError, match=r"there are .*wine, ucr/NAME"):
        Source(path="bundled:waves")


@pytest.mark.skipif(find_spec("aeon") is not None, reason="aeon is installed")
def test_without_aeon_the_extra_is_named() -> None:
    with pytest.raises(SystemExit, match=r"mmssl: .*comes with aeon: pip install mmssl\[demo\]"):
        main(["check", "timeseries/patchtst_ucr", "data.path=bundled:ucr/GunPoint"])


@pytest.mark.skipif(find_spec("aeon") is None, reason="aeon, of the extra demo, is not installed")
def test_the_sets_of_aeon() -> None:
    train, test = (Source(path="bundled:ucr/GunPoint", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (50, 150)
    assert TimeseriesProcessor()(train.rows([0])[0]["series"])["timeseries_values"].shape == (1, 150)
