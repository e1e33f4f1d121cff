"""Kill, break and starve: whatever fails after training, the model is there, and a command does what is left to do."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmssl_cli as cli
from mmssl import MMSSLModel, files
from mmssl.data import Batch
from mmssl.data.loader import LATE, WorkerKilled, _loaded
from mmssl.evaluation import Evaluator
from mmssl.evaluation.protocol import probes
from mmssl.objectives.predict import Masked
from mmssl.report import page
from mmssl.training import checkpoint
from mmssl.training.loop import Made, Training
from mmssl.training.run import Interrupted, Run
from mmssl.training.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")

Train = Callable[..., Run]
PARTS = ("data.path=parts", "data.columns={label: target}", "evaluate={}")
PICTURES = ("data.path=pictures", "data.limit=null", "evaluate={}", "train.max_steps=2")


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and message of `mmssl`, as typed."""
    sys.argv = ["mmssl", *arguments]
    try:
        cli.main(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return 1, stop.code
        return int(stop.code or 0), ""
    return 0, ""


@pytest.fixture(autouse=True)
def own_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code of a command with what it says on the error stream."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code, message = command(*arguments)
        return code, message or capsys.readouterr().err

    return run


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures and no charts, which take long."""
    monkeypatch.setattr(Session, "pictures", lambda *given: {})
    monkeypatch.setattr(page, "charts", lambda metrics, table: [])


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let whatever has a name that holds a text not fit on the disk any more; an empty text: everything fits again."""
    names: list[str] = []
    sync, opened = files.flush, Path.open

    def check(path: Path) -> None:
        if any(name in str(path) for name in names):
            raise OSError(errno.ENOSPC, "No space left on device")

    def checked(path: Path) -> None:
        check(path)
        sync(path)

    def opening(path: Path, *arguments: Any, **options: Any) -> Any:
        if arguments[:1] == ("a",):
            check(path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(files, "flush", checked)
    monkeypatch.setattr(Path, "open", opening)

    def fill(name: str) -> None:
        names[:] = [name] if name else []

    return fill


def csv(path: str, rows: list[str], header: str = "x,y,kind,target") -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def cells(count: int) -> list[str]:
    return [f"{i * 1.5},{i},{'abc'[i % 3]},{'pq'[i % 2]}" for i in range(count)]


def parts() -> None:
    csv("parts/train.csv", cells(32))
    csv("parts/test.csv", cells(21)[5:])


def write_pictures(count: int = 12) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in "ab":
            folder = Path("pictures", part, name)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number:02}.png")


def check_trained_not_scored(run: Run, code: int, said: str, *expected: str, undone: str = "scored") -> str:
    """The model is whole, the message says what is left; returns the command that does it."""
    assert code == cli.NOT_SCORED == 3, said
    assert said.startswith(f"mmssl: trained, but not {undone}: "), said
    for text in (*expected, f"The model is {run.model_folder}. "):
        assert text in said
    assert "Traceback" not in said
    MMSSLModel.from_pretrained(run.model_folder)
    assert "## How it was made" in (run.model_folder / "README.md").read_text(encoding="utf-8")
    assert run.trained
    assert not run.finished
    return said.splitlines()[-1].strip()


def check_finished(run: Run, line: str, typed: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """The command ends the run without a step of training."""

    def forbidden(self: Training, batches: Any) -> Any:
        raise AssertionError("nothing is trained again")

    steps = [row["step"] for row in run.rows()]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "move", forbidden)
        code, said = typed(*shlex.split(line)[1:], *more)
    assert code == 0, said
    assert run.finished
    assert run.report_file.exists()
    assert [row["step"] for row in run.rows()] == steps


# Scoring


def infinite_test_cell() -> str:
    csv("parts/test.csv", [*cells(21)[5:], "inf,1,a,p"])
    return "row 16 of parts (test), modality tabular: column 'x' takes finite numbers; got inf"


def broken_file() -> str:
    write_pictures()
    Path("pictures/test/b/07.png").write_bytes(b"no picture")
    return "row 19 of pictures (test), column image: pictures/test/b/07.png is no image"


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("how", ["mended", "without scores", "checkpoints gone", "not mended"])
@pytest.mark.parametrize("kind", ["cell", "file"])
def test_data_that_cannot_be_scored(
    tiny: Path, table: Path, typed: Any, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    if kind == "cell":
        parts()
        problem, recipe, options = infinite_test_cell(), table, PARTS
    else:
        problem, recipe, options = broken_file(), tiny, PICTURES
    code, said = typed("train", str(recipe), *options)
    run = Run(Path("runs", recipe.stem))
    line = check_trained_not_scored(run, code, said, problem, "adding evaluate=null")
    assert shlex.split(line) == ["mmssl", "train", str(recipe), *options, f"resume={run.folder}"]
    assert not run.table_file.exists()
    if how == "without scores":
        check_finished(run, line, typed, monkeypatch, "evaluate=null")
        return
    if how == "checkpoints gone":
        shutil.rmtree(run.checkpoints)
    if how == "not mended":
        assert check_trained_not_scored(run, *typed(*shlex.split(line)[1:]), problem) == line
    weights = (run.model_folder / "model.safetensors").read_bytes()
    parts() if kind == "cell" else write_pictures()
    check_finished(run, f"mmssl train {recipe} {shlex.join(options)} resume=auto", typed, monkeypatch)
    assert (run.model_folder / "model.safetensors").read_bytes() == weights
    assert "random init" in (run.model_folder / "README.md").read_text(encoding="utf-8")
    assert json.loads(run.table_file.read_text())["num_test"] == (16 if kind == "cell" else 24)


@pytest.mark.usefixtures("plain")
def test_a_killed_worker_of_which_torch_tells_while_another_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises in the handler of a signal: wherever the run happens to be."""
    said = ["DataLoader worker (pid 7) is killed by signal: Killed. "]

    def newest(folder: Path) -> Path:
        if said:
            raise RuntimeError(said.pop())
        return folder / "step-4"

    run = Run(tmp_path)
    run.record(command="mmssl train tiny.yaml")
    monkeypatch.setattr(checkpoint, "newest", newest)
    told = pytest.raises(WorkerKilled, match=r"a data worker was killed .* last checkpoint .*step-4; continue with:")
    with told, run.telling_how_to_go_on(unless=ZeroDivisionError):
        raise ConnectionResetError("of the worker's pipe")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), torch.linalg.LinAlgError("eigh"), MemoryError(), KeyError("k")]
)
def test_whatever_fails_in_scoring(table: Path, typed: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    parts()

    def broken(*arguments: Any, **options: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(probes, "linear_classify", broken)
        code, said = typed("train", str(table), *PARTS)
    run = Run(Path("runs/table"))
    line = check_trained_not_scored(run, code, said)
    check_finished(run, line, typed, monkeypatch)


@pytest.mark.usefixtures("plain")
def test_features_that_are_not_finite(table: Path, typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts()
    with monkeypatch.context() as patch:
        patch.setattr(MMSSLModel, "pool", lambda self, encoded: torch.full((len(encoded.values), 16), torch.nan))
        code, said = typed("train", str(table), *PARTS)
    line = check_trained_not_scored(Run(Path("runs/table")), code, said, "the features of 'pretrained' are not finite for 32 of 32")
    check_finished(Run(Path("runs/table")), line, typed, monkeypatch)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("name", "undone"), [("table.json", "scored"), (".README.md", "scored"), ("report.html", "reported")])
def test_a_full_disk_after_training(
    table: Path, typed: Any, full_disk: Any, monkeypatch: pytest.MonkeyPatch, name: str, undone: str
) -> None:
    parts()
    full_disk(name)
    code, said = typed("train", str(table), *PARTS)
    run, where = Run(Path("runs/table")), "the disk is full: "
    line = check_trained_not_scored(run, code, said, f"{where}{name.strip('.')} did not fit into runs/table", undone=undone)
    full_disk("")
    check_finished(run, line, typed, monkeypatch)
    assert run.table_file.exists()


@pytest.mark.usefixtures("plain")
def test_a_signal_while_the_model_is_scored(table: Path, typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
    scoring = Evaluator.table

    def interrupted(self: Evaluator, *arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        if twice:
            signal.raise_signal(signal.SIGINT)
        return scoring(self, *arguments, **options)

    for twice in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(Evaluator, "table", interrupted)
            code, said = typed("train", str(table), *PARTS, "resume=auto")
        run = Run(Path("runs/table"))
        assert code == 128 + signal.SIGINT
        assert said.startswith(
            "mmssl: stopped at once. Continue with:" if twice else "stopped after step 3; a checkpoint is written."
        )
        MMSSLModel.from_pretrained(run.model_folder)
    signal.signal(signal.SIGINT, before)
    check_finished(run, said.splitlines()[-1].strip(), typed, monkeypatch)


@pytest.mark.usefixtures("plain")
def test_scores_on_the_way_end_no_run(table: Path, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parts()
    problem = infinite_test_cell()
    code, _ = command("train", str(table), *PARTS, "evaluate={every: 1}")
    printed = capsys.readouterr()
    assert code == cli.NOT_SCORED
    assert printed.out.count(f"warning: no scores at step 1: {problem}") == printed.out.count("warning: no scores") == 1
    assert Run(Path("runs/table")).rows()[-1]["step"] == 3


# Drawing


def test_no_picture_ends_a_run(tiny: Path, typed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise IndexError("no such place")

    for where, name in ((Masked, "pictures"), (page, "picture"), (page, "charts")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, broken)
            assert command("train", str(tiny), "train.max_steps=1", f"run.name={name}")[0] == 0
        run = Run(Path("runs", name))
        assert run.finished
        assert "no such place" in capsys.readouterr().out
        assert run.report_file.exists()


def test_series_of_different_length_are_drawn(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths, rng = [16, 16, 32, 32, 48, 48, 64, 64], np.random.default_rng(0)
    rows = [json.dumps({"series": rng.normal(size=length).tolist()}) for length in lengths]
    Path("series.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    recipe = (
        tiny.read_text(encoding="utf-8")
        .replace("bundled:digits", "series.jsonl")
        .replace("limit: 64", "columns: {timeseries: series}")
    )
    start = recipe.index("  image:")
    recipe = recipe[:start] + "  timeseries: {adapter: {patch_size: 8}}\n" + recipe[recipe.index("encoder:") :]
    tiny.write_text(recipe.replace("batch_size: 16", "batch_size: 8").replace("max_steps: 12", "max_steps: 1"), encoding="utf-8")
    assert command("train", str(tiny)) == (0, "")
    said = capsys.readouterr().out
    assert "the report has no pictures" not in said
    assert "data:image/png" in Run(Path("runs/tiny")).report_file.read_text(encoding="utf-8")


# Before the model is published


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", [".model.", "metrics.jsonl"])
def test_a_full_disk_while_training(tiny: Path, typed: Any, full_disk: Any, name: str) -> None:
    full_disk(name if name != "metrics.jsonl" else "nothing")
    move = Training.move

    def filling(self: Training, micro: list[Batch]) -> Made:
        if self.counters.step == 6:
            full_disk(name)
        return move(self, micro)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "move", filling)
        code, said = typed("train", str(tiny))
    run = Run(Path("runs/tiny"))
    last = checkpoint.newest(run.checkpoints)
    assert code == 1
    assert f"the disk is full: {name.strip('.')} did not fit into runs/tiny. " in said
    assert said.endswith(f"Last checkpoint {last}; continue with:\n  mmssl train {tiny} resume=runs/tiny")
    assert not run.model_folder.exists()
    full_disk("")
    assert typed(*shlex.split(said.splitlines()[-1])[1:])[0] == 0
    assert run.finished


@pytest.mark.usefixtures("plain")
def test_a_full_disk_at_the_processor(tiny: Path, typed: Any, full_disk: Any) -> None:
    full_disk(".processor.")
    code, said = typed("train", str(tiny))
    assert code == 1
    assert "the disk is full: processor did not fit into runs/tiny. " in said
    assert not Path("runs/tiny").exists()


def test_a_killed_worker(tiny: Path) -> None:
    code = "import sys; from mmssl_cli import main; sys.argv[0] = 'mmssl'; sys.exit(main())"
    arguments = ["train", str(tiny), "train.max_steps=100000", "train.log_every=1", "data.workers=1", "train.checkpoint_every=2"]
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = Path("runs/tiny/metrics.jsonl")
    while not (log.exists() and log.stat().st_size > 1000) and process.poll() is None:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"-c\0import sys; from mmssl_cli" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    last = checkpoint.newest(Path("runs/tiny/checkpoints"))
    assert process.returncode == 1, said
    assert f"mmssl: a data worker was killed (out of memory?); last checkpoint {last}; continue with:\n  mmssl train " in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 123) exited unexpectedly"),
        EOFError(),
    ],
)
def test_ways_in_which_torch_tells_of_a_killed_worker(error: Exception) -> None:
    def dying() -> Iterator[Any]:
        yield "a batch"
        raise error

    with pytest.raises(WorkerKilled, match=r"^a data worker was killed \(out of memory\?\)$"):
        list(_loaded(dying(), 1))
    with pytest.raises(type(error)):
        list(_loaded(dying(), 0))


def test_the_signal_of_a_worker_whose_connection_broke_is_waited_for() -> None:
    def tell(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def dying() -> Iterator[str]:
        Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        raise ConnectionResetError("of the worker's pipe")
        yield

    before = signal.signal(signal.SIGUSR1, tell)
    try:
        begin = time.monotonic()
        with pytest.raises(WorkerKilled):
            list(_loaded(dying(), 1))
        assert 0.2 <= time.monotonic() - begin < LATE
    finally:
        signal.signal(signal.SIGUSR1, before)


# Bad samples


@pytest.fixture
def bad_pictures(tiny: Path) -> tuple[str, ...]:
    """32 files of 4 bad ones that make a whole step of two, and some micro-batches of one."""
    write_pictures(16)
    for number in (4, 5, 9):
        Path(f"pictures/train/a/{number:02}.png").write_bytes(b"no picture")
    return (
        "data.path=pictures",
        "data.limit=null",
        "data.shuffle=false",
        "train.batch_size=2",
        "train.log_every=1",
        "train.ema=null",
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    return dict(MMSSLModel.from_pretrained(run.model_folder).state_dict())


@pytest.mark.usefixtures("plain")
def test_skipping_does_not_depend_on_micro_batches(train: Train, bad_pictures: tuple[str, ...]) -> None:
    # A large epsilon, or AdamW would blow the rounding of gradients that are zero up to whole steps.
    options = (*bad_pictures, "data.on_error=skip", "train.max_steps=8", "train.eps=1e-4")
    one, two = (train(*options, f"train.accumulation={parts}") for parts in (1, 2))
    for run in (one, two):
        assert [row["step"] for row in run.rows()] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [row["skipped"] for row in run.rows()] == [0, 0, 2, 3, 3, 3, 3, 3], "the step of 4 and 5 is passed over"
        assert [row["samples"] for row in run.rows()] == [2, 4, 6, 7, 9, 11, 13, 15]
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_that_skips_is_continued_exactly(train: Train, bad_pictures: tuple[str, ...], signal_after: Any, step: int) -> None:
    options = (*bad_pictures, "data.on_error=skip", "train.max_steps=6")
    whole = train(*options, "run.name=whole")
    signal_after(step, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(*options)
    run = train(*options, "resume=auto")
    assert (run.model_folder / "model.safetensors").read_bytes() == (whole.model_folder / "model.safetensors").read_bytes()
    assert [row["skipped"] for row in run.rows()] == [row["skipped"] for row in whole.rows()]


@pytest.mark.usefixtures("plain")
def test_a_run_that_a_bad_file_ended_goes_on_without_it(tiny: Path, typed: Any, bad_pictures: tuple[str, ...]) -> None:
    code, said = typed("train", str(tiny), *bad_pictures, "train.max_steps=8")
    run = Run(Path("runs/tiny"))
    assert code == 1
    last = run.checkpoints / "step-000000002"
    assert "row 4 of pictures (train), column image: pictures/train/a/04.png is no image" in said
    assert "leave out what cannot be read with data.on_error=skip\n" in said
    assert f"Last checkpoint {last}; continue with:\n  mmssl train {tiny} " in said
    line = shlex.split(said.splitlines()[-1])[1:]
    assert typed(*line, "train.lr=1")[1].endswith("leave resume out to start a new run; init=runs/tiny carries the weights over")
    assert typed(*line)[0] == 1, "not mended"
    assert typed(*line, "data.on_error=skip")[0] == 0
    assert run.read_record()["skipped"] == 3
    assert typed(*line)[1].count("data.on_error: 'skip' -> 'raise'") == 1, "what was skipped is not learned"


@pytest.mark.usefixtures("plain")
def test_an_embedding_passes_over_a_batch_of_bad_samples(train: Train, bad_pictures: tuple[str, ...]) -> None:
    run = train(*bad_pictures, "data.on_error=skip", "train.max_steps=1")
    options = ("--data", "pictures", "--split", "train", "--batch-size", "1", "--on-error", "skip")
    assert command("embed", str(run.model_folder), *options, "--output", "vectors.parquet") == (0, "")
    assert command("evaluate", str(run.model_folder), "--data", "pictures", "--batch-size", "1", "--on-error", "skip") == (0, "")


# What is known before the first step


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("train_rows", "test_rows", "options", "message"),
    [
        (
            cells(32),
            [row[:-1] + "p" for row in cells(9)[:-1]],
            (),
            "all 8 labels of parts (test), column target, are 'p': scores need",
        ),
        (
            [f"{i},{i},a,{name}" for i, name in enumerate("pq")] * 1,
            cells(8)[1:],
            (),
            "no class of parts (train), column target, has two",
        ),
        (
            cells(32),
            [f"{i},a,{'pq'[i % 2]}" for i in range(8)],
            (),
            "parts/test.csv has the columns x, kind, target; parts/train.csv has x, y",
        ),
        (cells(32), [f"{i},3,a,{'pq'[i % 2]}" for i in range(8)], "inputs", "The model was trained on column 'target', the label"),
    ],
    ids=["constant test", "single rows", "column", "label among the inputs"],
)
def test_what_cannot_be_scored_is_refused_before_training(
    table: Path, typed: Any, train_rows: list[str], test_rows: list[str], options: Any, message: str
) -> None:
    csv("parts/train.csv", train_rows)
    csv("parts/test.csv", test_rows, "x,kind,target" if test_rows[0].count(",") == 2 else "x,y,kind,target")
    named = ("data.path=parts", "evaluate={columns: {label: target}}") if options == "inputs" else PARTS
    code, said = typed("train", str(table), *named, "train.batch_size=2")
    assert code == 1
    assert message in said
    assert not Path("runs/table").exists()


@pytest.mark.usefixtures("plain")
def test_constant_values_are_refused_before_training(table: Path, typed: Any) -> None:
    for part, other in (("train", "test"), ("test", "train")):
        csv(f"parts/{part}.csv", [f"{i},{i},a,0.5" for i in range(32)])
        csv(f"parts/{other}.csv", [f"{i}.25,{i},a,{i * 0.37}" for i in range(32)])
        code, said = typed("train", str(table), *PARTS)
        assert code == 1
        assert f"all 32 labels of parts ({part}), column target, are '0.5'" in said
    assert not Path("runs/table").exists()


# Short runs


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("budget", ["train.max_steps=1", "train.max_epochs=0.2"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_a_run_of_one_step_learns(train: Train, schedule: str, budget: str) -> None:
    run = train("train.max_steps=null", budget, f"train.schedule={{name: {schedule}}}", "train.log_every=1")
    assert [row["lr"] for row in run.rows()] == [1e-3]


@pytest.mark.usefixtures("plain")
def test_the_average_of_a_short_run_follows_it(train: Train) -> None:
    run = train("train.ema=0.9999", "train.checkpoint_every=1", "train.keep_last=20")
    states = [checkpoint.load(path) for path in sorted(run.checkpoints.iterdir())]
    assert states[-1]["average_warms_up"] is True
    keys = [key for key in states[0]["objective"] if key.startswith("networks.student.") and states[0]["objective"][key].dim() == 2]
    name = keys[-1].removeprefix("networks.student.")
    for step, (before, after) in enumerate(pairwise(states), start=2):
        old, new, student = (
            before["objective"][f"networks.copies.average.{name}"],
            after["objective"][f"networks.copies.average.{name}"],
            after["objective"][f"networks.student.{name}"],
        )
        momentum = (1 + step) / (10 + step)
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)


@pytest.mark.usefixtures("plain")
def test_a_checkpoint_of_before_averages_warmed_up_goes_on_without(
    train: Train, monkeypatch: pytest.MonkeyPatch, signal_after: Any
) -> None:
    signal_after(6, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train()
    path = Path("runs/tiny/checkpoints/step-000000006")
    state = checkpoint.load(path)
    del state["average_warms_up"]
    checkpoint.save(path, state)
    run = train("resume=auto")
    assert checkpoint.load(run.checkpoints / "step-000000012")["average_warms_up"] is False


@pytest.mark.usefixtures("plain")
def test_init_of_a_run_without_a_checkpoint(train: Train) -> None:
    run = train("train.max_steps=1")
    shutil.rmtree(run.checkpoints)
    words = r"init: runs/tiny is a run without a complete checkpoint; give a model folder \(init=runs/tiny/model\), or another run"
    with pytest.raises(FileNotFoundError, match=words):
        train("init=runs/tiny", "train.max_steps=2")
    shutil.rmtree(run.model_folder)
    with pytest.raises(FileNotFoundError, match="is a run without a complete checkpoint; give a model folder, or another run"):
        train("init=runs/tiny", "train.max_steps=2")
    assert not Path("runs/tiny-2").exists()
