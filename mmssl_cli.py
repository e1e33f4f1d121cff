"""The `mmssl` command. Only the commands that need them import torch and transformers, which takes seconds; help comes at once."""

import argparse
import gc
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmssl_catalogue import MODALITIES, first_lines, opening, points, recipes_found

PARTS = {
    "objectives": "mmssl.objectives:OBJECTIVES",
    "targets": "mmssl.objectives.predict.targets:TARGETS",
    "predictors": "mmssl.objectives.predict.predictors:PREDICTORS",
    "samplers": "mmssl.masking:SAMPLERS",
    "losses": "mmssl.objectives.predict.distances:LOSSES",
}
"""Where mmssl's own parts of each kind are listed, for `mmssl list`, which reads their sources."""

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
"""What `train --strategy` takes; `mmssl.training.asked` says what they mean."""

APART = ("--processes", "--strategy", "--dp-shard-size", "--devices")
"""Options that may stand anywhere."""

USER_ERRORS = (ValueError, TypeError, LookupError, OSError, RuntimeError, ImportError)
"""What wrong input raises: shown as one message, without our stack."""


PREDICTED = {
    "forecast": "windows",
    "semantic-segmentation": "label maps",
    "token-classification": "lists of tags",
    "frame-classification": "lists of labels",
}
"""What predictions of a kind are called, where they are no labels."""
NOT_SCORED = 3
"""Exit code of a run that is trained and has published its model, but is not scored or has no report."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exits with 1 and a message where the user's input is at fault, with 128 + n after signal n.

    `train` exits with `NOT_SCORED` where only what follows training is at fault.
    """
    rest, taken = options_apart(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args([*rest, *taken])
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        if options.processes is not None:
            own = [] if options.strategy is None else [f"--strategy={options.strategy}"]
            own += [] if options.dp_shard_size is None else [f"--dp-shard-size={options.dp_shard_size}"]
            sys.exit(launch(options.processes, [*rest, *own]))
        run(options)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt as stop:
        print(f"mmssl: {'; '.join(notes(stop)) or 'stopped before there was anything to save'}", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        if options.traceback:
            raise
        sys.exit(f"mmssl: {message(error)}" if speaks(error) else 1)
    except SystemExit as stop:
        if str(stop) != str(stop.code) and is_first():
            print(stop, file=sys.stderr)
        raise


def is_first() -> bool:
    """Whether this process is alone, or the first of those that share the work."""
    return os.environ.get("RANK", "0") == "0"


def speaks(error: BaseException) -> bool:
    """Whether this process is the one to tell of an error: of several the one that has it, and the first one."""
    other = any(type(one).__name__ == "OtherFailed" for one in (error, error.__cause__))
    return not other or is_first()


def message(error: BaseException) -> str:
    """The error's own words (a LookupError would quote them), and what was noted on its way."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return "\n".join([text, *notes(error)])


def notes(error: BaseException) -> list[str]:
    """What was noted of an error on its way up."""
    found: list[str] = vars(error).get("__notes__", [])
    return found


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    what = "Self-supervised pretraining: one recipe in, a Hugging Face model out."
    top = argparse.ArgumentParser(prog="mmssl", description=what, add_help=False)
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # a line less: all commands fit a small terminal
    top.add_argument("--version", action="version", version=f"mmssl {version('mmssl')}")
    top.add_argument("--traceback", action="store_true", help="show the full stack of an error")
    top.set_defaults(processes=None, strategy=None, dp_shard_size=None)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="run a recipe: train, evaluate, report")
    command.add_argument("recipe", help="path or name of a recipe, or hf://REPO for that of a published model")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="train.lr=1e-3, data.path=..., resume=auto, init=MODEL")
    add_processes(command)
    what = f"how the processes share the model: {', '.join(STRATEGIES)}; default: ddp, each holds all of it"
    command.add_argument("--strategy", choices=STRATEGIES, metavar="NAME", help=what)
    what = "of fsdp2: how many processes share a copy of the model, one machine's for example; default: all of them"
    command.add_argument("--dp-shard-size", type=int, metavar="N", help=what)
    command.set_defaults(run=train)

    command = commands.add_parser("convert", help="write a checkpoint as a Hugging Face folder, on a CPU")
    command.add_argument("checkpoint", type=Path, help="a checkpoint, or a run, whose newest good one is taken")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the folder to write")
    what = "which network; default: what the run publishes in its end"
    command.add_argument("--weights", choices=["student", "teacher", "average"], help=what)
    command.set_defaults(run=convert)

    command = commands.add_parser("new", help="look at your data and write a first recipe for them")
    command.add_argument("data", help="folder, file, pattern or Hub id")
    what = "the recipe to write; default: recipe.yaml"
    command.add_argument("--output", type=Path, default=Path("recipe.yaml"), metavar="FILE", help=what)
    what = "what the data are to be read as, one or a pair; needed where several are as likely"
    command.add_argument("--modality", nargs="+", default=[], metavar="NAME", help=what)
    command.add_argument("--label", metavar="COLUMN", help="labels to score the encoder by; it does not learn from them")
    what = "other values for keys of the starter recipe, as in train.max_minutes=10"
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=what)
    command.add_argument("--train", action="store_true", help="run the recipe at once")
    add_table_format(command)
    command.set_defaults(run=new)

    command = commands.add_parser("evaluate", help="probe a frozen model beside raw features and random weights")
    command.add_argument("model", help="folder of a model or of a run, or Hub id of a model")
    add_data_arguments(command)
    what = "label column (bundled data know theirs); several where each says of a label by 1 or 0 whether it applies"
    command.add_argument("--label", nargs="+", help=what)
    kinds = ["classification", "regression", "multi_label", "dense"]
    command.add_argument("--kind", choices=kinds, help="what the labels are; default: classes if text or few whole numbers")
    command.add_argument("--retrieval", action="store_true", help="let modalities find each other's samples, in place of probes")
    command.add_argument("--zero-shot", action="store_true", help="classify by the names of the classes, in place of probes")
    names = "openai_imagenet or simple_imagenet"
    command.add_argument("--templates", metavar="FILE", help=f"sentences with {{}} for a class name, one a line; or {names}")
    what = "columns of several modalities, of label and group, for --retrieval and --zero-shot"
    command.add_argument("--columns", nargs="+", default=[], metavar="USE=COLUMN", help=what)
    command.add_argument("--train-split", default="train")
    command.add_argument("--test-split", help="default: test if there is one, else a fifth of the training rows")
    command.add_argument("--train-limit", type=int, help="use that many training samples")
    command.add_argument("--test-limit", type=int, help="use that many test samples")
    command.add_argument("--heads", action="store_true", help="also score what the projector of a run makes of the features")
    what = "more models, a row each; of open_clip, for --retrieval and --zero-shot: NAME=open_clip:MODEL/PRETRAINED"
    command.add_argument("--compare", nargs="*", default=[], metavar="NAME=MODEL", help=what)
    command.add_argument("--output", type=Path, help="write the table as JSON")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("embed", help="a dataset to a file of embeddings")
    command.add_argument("model", help="folder or Hub id of a model")
    add_data_arguments(command)
    command.add_argument("--split", help="part of the data; all of it if left out")
    command.add_argument("--project", action="store_true", help="into the space that the model's modalities share")
    what = "layers whose outputs to pool, by number from 1 on, and last (the default), a column for each"
    command.add_argument("--layers", nargs="+", default=["last"], metavar="LAYER", help=what)
    command.add_argument("--tokens", action="store_true", help="also write the tokens of each sample, and where they lie")
    what = "columns of the data to write beside them; default: path and label of media files"
    command.add_argument("--keep", nargs="*", metavar="COLUMN", help=what)
    what = "what to write: NAME.parquet; NAME.npy; or a new folder, for datasets.load_from_disk"
    command.add_argument("--output", type=Path, required=True, help=what)
    command.set_defaults(run=embed)

    command = commands.add_parser("search", help="embedded samples nearest to a file, a text or a row")
    command.add_argument("index", type=Path, help="what `mmssl embed` wrote")
    command.add_argument("query", help="a file, a text, or the number of a row of the index")
    command.add_argument("--model", help="where the model of the index lies now, if it was moved")
    command.add_argument("--modality", help="of the query; needed if several may be meant, or if a text is a number")
    command.add_argument("--query-row", type=int, metavar="N", help="which row of a table file is the query, from 0 on")
    command.add_argument("--top", type=int, default=10, metavar="N", help="hits to show; default: 10")
    what = "exact; or, for very many rows, built once and kept beside the index, and missing some of the nearest"
    command.add_argument("--kind", choices=["exact", "ivf", "hnsw"], default="exact", help=what)
    command.add_argument("--layer", default="last", help="the layer of the index, where it holds several; default: last")
    command.add_argument("--data", help="where the embedded data lie now, if they were moved, for the pictures of a page")
    command.add_argument("--output", type=Path, help="a .html page with pictures, or a .csv or .parquet file")
    command.set_defaults(run=search)

    command = commands.add_parser("predict", help="labels, or forecasts, of a dataset by a trained model")
    command.add_argument("model", help="folder of a model or of a run, or Hub id of a model")
    add_data_arguments(command)
    what = "part of the data; all of it if left out. Of forecasts test scores held-out windows; what comes next if left out"
    command.add_argument("--split", help=what)
    what = "column of true labels, or several of 0 and 1, to score the predictions by"
    command.add_argument("--label", nargs="+", help=what)
    command.add_argument("--keep", nargs="*", metavar="COLUMN", help="columns of the data to write beside them; default: all")
    command.add_argument("--output", type=Path, required=True, help="the parquet or csv file to write")
    command.set_defaults(run=predict)

    add_push(commands)
    add_export(commands)

    command = commands.add_parser("list", help="modalities, objectives and their parts, recipes, or runs")
    kinds = ["modalities", *PARTS, "recipes", "runs"]
    command.add_argument("what", choices=kinds, metavar="KIND", help=", ".join(kinds))
    command.add_argument("--dir", type=Path, default=Path("runs"), metavar="FOLDER", help="where the runs are; default: runs")
    command.set_defaults(run=show_list)

    command = commands.add_parser("compare", help="runs side by side: keys in which they differ, and scores")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    command.set_defaults(run=compare)

    command = commands.add_parser("check", help="validate a recipe and show what it would build")
    command.add_argument("recipe", help="path or name of a recipe, or hf://REPO for that of a published model")
    command.add_argument("overrides", nargs="*", metavar="key=value")
    what = "would it fit on these: memory by strategy, bounds on the speed, what to type; as in 64xH100, 4x24GB"
    command.add_argument("--devices", metavar="NxNAME", help=what)
    command.set_defaults(run=check)

    command = commands.add_parser("schema", help="print the JSON schema of a recipe, for editors")
    command.set_defaults(run=schema)
    return top


def add_push(commands: Any) -> None:
    """The command that publishes a run."""
    command = commands.add_parser("push", help="publish the model of a run on the Hub, checked first")
    command.add_argument("folder", metavar="run", help="folder of a run")
    command.add_argument("repo", nargs="?", help="repository to make, owner/name")
    command.add_argument("--dir", metavar="FOLDER", help="write what would be published to a folder instead")
    what = "the network to publish; default: the one that the run published"
    command.add_argument("--weights", choices=["published", "student", "teacher", "average"], default="published", help=what)
    command.add_argument("--license", metavar="KEY", help="as the Hub has it: apache-2.0, mit, cc-by-4.0, ... or other")
    command.add_argument("--license-name", metavar="NAME", help="of a licence that is other")
    command.add_argument("--license-link", metavar="LINK", help="to the text of a licence that is other")
    command.add_argument("--private", action="store_true", help="only its owners see a new repository")
    command.add_argument("--update", action="store_true", help="add a commit to a repository that exists, or replace the folder")
    what = "only what adapters learned (peft), as a repository of the peft library; their base must be a model of the Hub"
    command.add_argument("--adapter", action="store_true", help=what)
    command.add_argument("--no-code", action="store_true", help="leave out the code by which it loads without mmssl")
    what = "that must not be in what is published, such as names of private columns"
    command.add_argument("--words", nargs="+", default=[], metavar="WORD", help=what)
    what = "that may be in it, though it looks like a path or a secret"
    command.add_argument("--allow", nargs="+", default=[], metavar="TEXT", help=what)
    command.set_defaults(run=push)


def add_export(commands: Any) -> None:
    """The command that writes a model in another form."""
    command = commands.add_parser("export", help="a model in a form that needs no mmssl")
    command.add_argument("model", help="folder of a model or of a run, or Hub id of a model")
    form = command.add_mutually_exclusive_group(required=True)
    what = "write a folder with code of its own, for AutoModel.from_pretrained(FOLDER, trust_remote_code=True)"
    form.add_argument("--remote-code", metavar="FOLDER", help=what)
    what = "write a graph for onnxruntime, of any batch and sizes, with its processor; checked there (extra onnx)"
    form.add_argument("--onnx", metavar="FOLDER", help=what)
    what = "write a model of transformers' own classes, with its processor, if the settings allow it; checked without mmssl"
    form.add_argument("--native", metavar="FOLDER", help=what)
    command.add_argument("--modality", help="which of the model's modalities; needed for --onnx if it has several")
    command.set_defaults(run=export)


def add_processes(command: argparse.ArgumentParser) -> None:
    """What commands say that several processes can share."""
    command.add_argument("--processes", type=int, metavar="N", help="share the work among N processes of this machine")


def options_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is typed of a command without `APART`, and these; argparse takes none amid key=value."""
    words, rest, taken = iter(arguments), list[str](), list[str]()
    for word in words:
        name, equals, _ = word.partition("=")
        if any(len(name) > 3 and option.startswith(name) for option in APART):  # a beginning will do
            taken += [word] if equals else [word, *itertools.islice(words, 1)]
        else:
            rest.append(word)
    return rest, taken


def add_data_arguments(command: argparse.ArgumentParser) -> None:
    """What `evaluate` and `embed` say about data."""
    command.add_argument("--data", required=True, help="Hub id, file, pattern, folder, or bundled:NAME")
    command.add_argument("--modality", help="which of the model's modalities; needed if it has several")
    command.add_argument("--column", nargs="+", help="dataset column of the modality, several for a table")
    command.add_argument("--batch-size", type=int, default=256)
    add_table_format(command)
    what = "what to do with a sample that cannot be read"
    command.add_argument("--on-error", choices=["raise", "skip"], default="raise", help=what)
    add_processes(command)


def add_table_format(command: argparse.ArgumentParser) -> None:
    """What commands say about the cells of table files."""
    command.add_argument("--missing", nargs="+", default=[], metavar="WORD", help="words that are missing values in table files")
    command.add_argument("--types", nargs="+", default=[], metavar="COLUMN=TYPE", help="string or number, where read as the other")
    what = "sign that parts several values in a cell, such as genres='|'"
    command.add_argument("--lists", nargs="+", default=[], metavar="COLUMN=SIGN", help=what)
    command.add_argument("--delimiter", help="of csv files: one character, or tab")
    command.add_argument("--decimal", default=".", choices=[".", ","], help="decimal sign of csv files")
    command.add_argument(
        "--no-header", action="store_true", help="csv files have no names of columns, which are called c0, c1, ..."
    )
    what = "whether a .npy or .npz file is one sample, or holds many"
    command.add_argument("--arrays", choices=["one", "many"], help=what)
    command.add_argument("--series", metavar="KEYS", help="how rows make series, as in '{by: id, time: t, values: [x, y]}'")


def table_format(options: argparse.Namespace) -> Any:
    """How the cells of table files are written, as the command says."""
    from pydantic import TypeAdapter

    from mmssl.data.table_format import TableFormat

    types, lists = (dict(pair.split("=", 1) for pair in pairs) for pairs in (options.types, options.lists))
    said = {"missing": options.missing, "types": types, "lists": lists, "delimiter": options.delimiter, "decimal": options.decimal}
    said |= {"header": not options.no_header, "arrays": options.arrays}
    if options.series is not None:
        from mmssl.recipe.yaml12 import parse

        said["series"] = parse(options.series, "--series")
    return TypeAdapter(TableFormat).validate_python(said)


@contextmanager
def loading() -> Iterator[None]:
    """Say on a terminal, for as long as it takes, that the libraries are imported: some seconds in which nothing else is seen.

    What they bring lives as long as the process, so the garbage collector doesn't look at it: not while it comes, not later, not at
    the end.
    """
    shown = sys.stderr.isatty() and is_first()
    fresh = "torch" not in sys.modules
    if fresh:
        gc.disable()
    if shown:
        print("loading torch and transformers ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if fresh:
            gc.freeze()
            gc.enable()
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def new(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    made = api.new(
        options.data,
        options.output,
        modality=options.modality,
        label=options.label,
        table_format=table_format(options),
        overrides=options.set,
    )
    for line in made.lines:
        print(line)
    print(f"recipe in {options.output}: mmssl train {options.output}")
    if options.train:
        options.recipe, options.overrides = options.output, []
        train(options)


def train(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api
        from mmssl.training.run import NotScored

    if options.strategy is not None:
        os.environ["MMSSL_STRATEGY"] = options.strategy
    if options.dp_shard_size is not None:
        os.environ["MMSSL_DP_SHARD_SIZE"] = str(options.dp_shard_size)
    try:
        api.train(options.recipe, options.overrides)
    except NotScored as error:
        if options.traceback:
            raise
        if speaks(error):
            print(f"mmssl: {message(error)}", file=sys.stderr)
        sys.exit(NOT_SCORED)


def convert(options: argparse.Namespace) -> None:
    from mmssl.training.convert import convert as converted

    kind, step = converted(options.checkpoint, options.output, options.weights)
    print(f"the {kind} of step {step:,}: {options.output}")


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `mmssl` with these arguments on processes of this machine, as torchrun does; the exit code of the first to fail."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--processes starts processes, and this is one of several already, by the launcher: leave it out")
    if count < 1:
        raise ValueError(f"--processes must be at least 1; got {count}")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost process is told with a stack of C++
    # The processes say themselves what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"mmssl-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mmssl", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def evaluate(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    if options.retrieval or options.zero_shot:
        evaluate_pairs(options)
        return
    for flag, given in (("--templates", options.templates), ("--columns", options.columns)):
        if given:
            raise ValueError(f"{flag} has no meaning for probes: add --zero-shot or --retrieval, or leave it out")
    table = api.evaluate(
        options.model,
        options.data,
        modality=options.modality,
        column=options.column,
        label=one_or_several(options.label),
        kind=options.kind,
        train_split=options.train_split,
        test_split=options.test_split,
        train_limit=options.train_limit,
        test_limit=options.test_limit,
        heads=options.heads,
        **reading(options),
    )
    show([table], table.to_dict(), options.output)


def evaluate_pairs(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    if options.heads:
        raise ValueError("--heads has no meaning for --retrieval and --zero-shot, which read projections anyway: leave it out")
    if options.templates and not options.zero_shot:
        raise ValueError("--templates has no meaning for --retrieval: add --zero-shot, or leave it out")
    if wrong := [each for each in options.columns if "=" not in each]:
        raise ValueError(f"--columns takes USE=COLUMN, as in image=picture or label=kind; got {wrong[0]!r}")
    columns: dict[str, Any] = dict(each.split("=", 1) for each in options.columns)
    if options.label:
        columns["label"] = one_or_several(options.label)
    if options.column:
        if not options.modality:
            raise ValueError("--column names the column of --modality, which is left out; or say --columns MODALITY=COLUMN")
        columns[options.modality] = options.column[0] if len(options.column) == 1 else options.column
    tables = api.evaluate_pairs(
        options.model,
        options.data,
        retrieval=options.retrieval,
        zero_shot=options.zero_shot,
        templates=options.templates,
        modality=options.modality,
        columns=columns or None,
        split=options.test_split,
        limit=options.test_limit,
        **reading(options),
    )
    show(list(tables.values()), {name: table.to_dict() for name, table in tables.items()}, options.output)


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """How samples are read and encoded, and what else is scored, whatever the scores are."""
    return {
        **samples(options),
        "compare": dict(pair.split("=", 1) for pair in options.compare),
    }


def samples(options: argparse.Namespace) -> dict[str, Any]:
    """How samples are read and encoded."""
    return {"batch_size": options.batch_size, "on_error": options.on_error, "table_format": table_format(options)}


def one_or_several(names: list[str] | None) -> str | list[str] | None:
    """Columns that an option names."""
    return names[0] if names is not None and len(names) == 1 else names


def places(options: argparse.Namespace) -> dict[str, Any]:
    """Which samples are read, and what of them is written."""
    return {"split": options.split, "modality": options.modality, "column": options.column, "keep": options.keep}


def show(tables: list[Any], written: dict[str, Any], output: Path | None) -> None:
    """Print tables, and write them to a file if there is one; the first process does."""
    if not is_first():
        return
    for table in tables:
        table.print()
    if output:
        output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def embed(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    count = api.embed(
        options.model,
        options.data,
        options.output,
        project=options.project,
        layers=options.layers,
        tokens=options.tokens,
        **places(options),
        **samples(options),
    )
    if is_first():
        print(f"{count} embeddings in {options.output}")


def search(options: argparse.Namespace) -> None:
    from rich import get_console

    with loading():
        from mmssl import api

    hits = api.search(
        options.index,
        options.query,
        model=options.model,
        modality=options.modality,
        row=options.query_row,
        top=options.top,
        kind=options.kind,
        layer=options.layer,
        output=options.output,
        data=options.data,
    )
    found = hits.table()
    rows = [
        [f"{cell:.3f}" if name == "cosine" else "" if cell is None else str(cell) for name, cell in row.items()]
        for row in found.to_pylist()
    ]
    get_console().print(f"nearest to {hits.query} among {hits.size:,} embeddings", markup=False, highlight=False, soft_wrap=True)
    print_table(found.column_names, rows, right=("rank", "row", "cosine"))
    if options.output:
        print(f"{len(hits)} hits in {options.output}")


def predict(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    found = api.predict(
        options.model,
        options.data,
        options.output,
        label=one_or_several(options.label),
        **places(options),
        **samples(options),
    )
    if is_first():
        unread = f"; {found.unread:,} of them could not be read and have none" if found.unread else ""
        print(f"{found.rows:,} predictions in {options.output}{unread}")
        if found.judged is not None:
            what = PREDICTED.get(found.judged.kind, "labels")
            print(f"{found.judged.num_test:,} {what}: {', '.join(found.judged.lines)}")
        if found.note is not None:
            print(f"note: {found.note}")


def push(options: argparse.Namespace) -> None:
    from mmssl.publish import push as publish

    done = publish(
        options.folder,
        options.repo,
        folder=options.dir,
        weights=options.weights,
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        private=options.private,
        update=options.update,
        with_code=not options.no_code,
        adapter=options.adapter,
        words=options.words,
        allowed=options.allow,
    )
    for note in done.notes:
        print(f"note: {note}")
    what = f"the {done.kind}" if done.kind else "the model of the run"
    how = "on their base" if options.adapter else "in a fresh process"
    what = "the adapters" if options.adapter else what
    print(f"{what}, {len(done.names)} files, loaded again {how}: outputs differ by at most {done.difference:.1g}")
    print(done.place)


def export(options: argparse.Namespace) -> None:
    from mmssl import publish

    if options.modality and not options.onnx:
        raise ValueError("--modality has a meaning for --onnx alone, as the other forms hold the whole model: leave it out")
    if options.onnx:
        done = publish.export_onnx(options.model, options.onnx, options.modality)
    elif options.native:
        done = publish.export_native(options.model, options.native)
    else:
        done = publish.export_remote_code(options.model, options.remote_code)
    same = "" if done.difference is None else f"; outputs differ by at most {done.difference:.1g}"
    print(f"{len(done.names)} files in {done.folder}; {done.how}{same}")


def show_list(options: argparse.Namespace) -> None:
    if options.what == "modalities":
        rows = dict.fromkeys(points(MODALITIES), "")
    elif options.what == "runs":
        from mmssl.training.compare import Listed, listed

        print_table(Listed._fields, listed(options.dir))
        return
    elif options.what in PARTS:
        rows = first_lines(PARTS[options.what], f"mmssl.{options.what}")
    else:
        rows = {name: opening(path) for name, path in recipes_found().items()}
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:{width}}  {text}".rstrip())


def compare(options: argparse.Namespace) -> None:
    from mmssl.training.compare import compared

    print_table(("", *(folder.name for folder in options.runs)), [(name, *texts) for name, texts in compared(options.runs)])


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Columns of texts, each as wide as its longest; on a narrow terminal they wrap. right: those of numbers, set to the right."""
    from rich import get_console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in head:
        grid.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    get_console().print(grid)


def check(options: argparse.Namespace) -> None:
    with loading():
        from mmssl import api

    print(api.check(options.recipe, options.overrides, devices=options.devices))


def schema(options: argparse.Namespace) -> None:
    from mmssl.recipe import json_schema

    print(json.dumps(json_schema(), indent=2))
