"""Write docs/recipe.md, the reference of all keys of a recipe, from the JSON schema, and docs/files.md, what files may look like.

python docs/make_reference.py
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmssl.data.formats import TABLES
from mmssl.data.split_names import ENDINGS, SPLITS
from mmssl.files import COMPRESSED
from mmssl.modality import find
from mmssl.plugins import installed
from mmssl.recipe import json_schema
from mmssl.recipe.messages import PLAIN, describe

Schema = dict[str, Any]
Definitions = Mapping[str, Schema]
Told = dict[tuple[str, ...], str]
"""Choices by their names, and the key under which they were told."""

INTRODUCTION = """# Recipe reference

A recipe is a YAML file. Each section holds the keyword arguments of one constructor; a key that is not listed here is an error.
Any key can be set on the command line by its dotted path, as in `train.lr=1e-3`.

<!-- Written by docs/make_reference.py: edit the docstrings of the constructors instead. -->
"""
HEAD = "| key | type | default | allowed | description |\n|---|---|---|---|---|"
DEEPEST = 5
"""Level of the headings below which all are alike."""
TYPES = {"boolean": "true or false", "integer": "whole number", "string": "text", "array": "list", "object": "mapping"}


def reference(schema: Schema) -> str:
    """The page: a table of the sections, then one of the keys of each section and of each of its variants."""
    definitions = schema["$defs"]
    parts = [INTRODUCTION, _table(_rows(schema, definitions, nested=False))]
    told: dict[tuple[str, ...], str] = {}
    for key, value in schema["properties"].items():
        parts += _section(key, value, definitions, told, level=2)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(path: str, schema: Schema, definitions: Definitions, told: Told, level: int) -> Iterator[str]:
    """Heading, text and table of a section; nothing for a key that is not a section, or whose choices were told before."""
    heading = "#" * min(level, DEEPEST)
    variants, keys = _variants(schema, definitions), _keys(schema, definitions)
    if variants and tuple(variants) in told:
        yield f"{heading} `{path}`\n\nThe choices of `{told[tuple(variants)]}`."
    elif variants:
        told[tuple(variants)] = path
        yield f"{heading} `{path}`\n\nChosen by `name`: {', '.join(f'`{name}`' for name in variants)}."
        for name, variant in variants.items():
            yield f"{heading}# `{path}: {{name: {name}}}`\n\n{variant.get('description', '')}"
            yield from _body(path, variant, definitions, told, level + 1)
    elif keys is not None:
        yield f"{heading} `{path}`\n\n{keys.get('description', '')}"
        yield from _body(path, keys, definitions, told, level)


def _body(path: str, section: Schema, definitions: Definitions, told: Told, level: int) -> Iterator[str]:
    """The table of a section; sections of their own for its modalities and variants."""
    if path == "modalities":
        for name, modality in section["properties"].items():
            yield from _section(f"{path}.{name}", modality, definitions, told, level + 1)
        return
    rows = list(_rows(section, definitions))
    yield _table(rows) if rows else "No keys."
    for inner, schema in _nested_variants(section, definitions):
        yield from _section(f"{path}.{inner}", schema, definitions, told, level + 1)


def _rows(section: Schema, definitions: Definitions, prefix: str = "", nested: bool = True) -> Iterator[list[str]]:
    """A row for each key, and under a key that is a section the rows of that section."""
    for key, schema in section["properties"].items():
        if "const" in schema:
            continue
        keys = _keys(schema, definitions)
        yield _row(prefix + key, schema, key in section.get("required", ()), keys, definitions)
        if nested and keys is not None:
            yield from _rows(keys, definitions, f"{prefix}{key}.")


def _row(path: str, schema: Schema, required: bool, keys: Schema | None, definitions: Definitions) -> list[str]:
    default = "required" if required else f"`{json.dumps(schema['default'])}`"
    plain = [PLAIN.get(kind) for kind in _types(schema, definitions)]
    words = "" if keys is not None else describe(schema, definitions)
    described = schema.get("description") or (keys or {}).get("description", "")
    kinds = " or ".join(TYPES.get(kind, kind) for kind in _types(schema, definitions))
    return [f"`{path}`", kinds, default, "" if words.split(" or ") == plain or words in plain else words, described]


def _table(rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([HEAD, *lines])


def _options(schema: Schema, definitions: Definitions) -> list[Schema]:
    """The members of a union, references followed."""
    if "$ref" in schema:
        return [definitions[schema["$ref"].rpartition("/")[2]]]
    return [option for member in schema["anyOf"] for option in _options(member, definitions)] if "anyOf" in schema else [schema]


def _types(schema: Schema, definitions: Definitions) -> list[str]:
    return list(dict.fromkeys(option.get("type", "object") for option in _options(schema, definitions)))


def _keys(schema: Schema, definitions: Definitions) -> Schema | None:
    """The section that a key holds, if it holds one."""
    return next((option for option in _options(schema, definitions) if "properties" in option), None)


def _variants(schema: Schema, definitions: Definitions) -> dict[str, Schema]:
    """The sections that a key holds one of, or a list of, by name."""
    options = _options(schema, definitions)
    options += [inner for option in options if "items" in option for inner in _options(option["items"], definitions)]
    mappings = [option["discriminator"]["mapping"] for option in options if "discriminator" in option]
    return {name: definitions[ref.rpartition("/")[2]] for mapping in mappings for name, ref in mapping.items()}


def _nested_variants(section: Schema, definitions: Definitions, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    for key, schema in section["properties"].items():
        keys = _keys(schema, definitions)
        if _variants(schema, definitions):
            yield prefix + key, schema
        elif keys is not None:
            yield from _nested_variants(keys, definitions, f"{prefix}{key}.")


FILES = """# What your files may look like

`data.path` names a bundled set, a file, a folder, a pattern, or a dataset on the Hub. What exists on disk wins: a name with the
signs of a pattern (`t[1].csv`, `data[1]/`) is a name if there is such a file or folder. What is not read is told once, by
`mmssl check`, in the run and in the report.

<!-- Written by docs/make_reference.py from the tables that the readers use: edit that file, or those tables, instead. -->

## Bundled sets

They work at once and offline. Nothing is downloaded: the data come with packages that mmssl needs, or that an extra installs.

| `data.path` | what it holds | splits | label |
|---|---|---|---|
| `bundled:digits` | pictures of handwritten digits | train, test | target |
| `bundled:breast_cancer`, `bundled:wine`, `bundled:diabetes` | tables | train, test | target |
| `bundled:ucr/GunPoint` and others: `pip install mmssl[demo]` | series of the UCR / UEA archive, of aeon | train, test | label |
| `bundled:glyphs` | characters: `image`, `text`, `captions`, `points`, properties | train, test, characters, scripts | category |
| `bundled:python` | lines of Python's own library: `words`, a tag for each word | train, test (other modules) | tags |
| `synthetic:scenes` | made pictures of discs, squares and crosses, with label maps | train, test | label |
| `synthetic:states` | made series of four states, with the state of each step | train, test | label |

`bundled:glyphs` has a row for each character of each text face of matplotlib. Use it to try paired data: any two of an image, a
text, a point cloud and a table. A table reads the properties only. Name `script` in `columns.label` to score the script instead.

| split | characters | faces |
|---|---|---|
| train | for training | DejaVu Sans, DejaVu Sans Mono, STIX |
| test | those of train, without pictures that train has | DejaVu Serif, of which train has no cut |
| characters | none of train's, of scripts that train has | those of train |
| scripts | Armenian, Lao and Tifinagh, which train does not have | those of train |

Some characters look exactly alike, as a Latin and a Greek A do. The column `same` holds one number for them. A loss that compares
pairs must not take two rows of equal `same` for different things.

The fonts keep their licences, which matplotlib ships beside them. mmssl contains no part of a font.

## Suffixes

Upper and lower case are alike. Hidden files and folders (`.name`) are left out, and told. Files of other suffixes are passed over,
counted, and told: `32 files passed over: 24 .xcf, 8 without suffix`. A folder, or what a pattern matches, is of one kind; of two,
the error asks which, and says how to choose. `.txt`, `.md`, `.asc` and `.json` files are data only in a folder that holds nothing
else. Only texts beside [media files](#texts-beside-media-files) are data there too.

{suffixes}

## Cells of tables

A column has one type in all rows, all files and all splits of a path.

| cells | read as |
|---|---|
| csv: whole numbers, decimals, `true`/`false`, as programs write them | numbers, truth values |
| csv: whole numbers and decimals in one column | decimals |
| csv: codes that a number would not give back: `01234`, `1e5`, `+49`, more than 18 digits | strings |
| csv: anything else beside numbers: `NA`, `None`, `?`, `1,234`, `5 kg`, a date | strings; `mmssl check` says what looks odd |
| csv: an empty cell, also in quotes | missing, and no other |
| csv: a column without a name and without a cell, as separators at the ends of rows make it | no column |
| jsonl: a column whose cells differ in type | each cell as it is: the one that is wrong is told with its row, or skipped |
| parquet: whole numbers in one file, decimals in another | decimals; numbers and strings are refused |
| the index of a pandas frame; the first column of a csv file if it has no name | no input unless `data.columns` names it; told |

Keys of `data` (and of `data.sources.NAME`; `mmssl evaluate` and `mmssl embed` have options of the same names) say what files do
not:

```yaml
data:
  path: sales.csv
  delimiter: ";"
  decimal: ","
  missing: [NA, "?", "-999"]
  types: {{zip: string}}
```

`data.header: false` is for csv files without names of columns, which then are `c0`, `c1`, ... `data.series` says how rows make
series: see [Time series](modalities/timeseries.md#your-own-data).

A `.json` file holds a list of objects, or one object in which one key has such a list. Files of text may be packed: `.csv.gz`,
`.jsonl.zst`. `.arrow` and `.feather` files are read like parquet, and so are folders that `save_to_disk` of the `datasets` library
wrote, with their splits.

`.tar` files are shards of WebDataset: members of one name, but for the suffix, are a sample. A modality finds its files under the
name that it looks for; `.cls` is the label, and the keys of `.json` are further columns. Nothing is unpacked to disk. Where no
sample says its label, folders in the tar file name classes, as folders on disk do. Two splits in one tar file are refused.

Refused, by file and row: two columns of one name, rows of another length than the header, a quote that is never closed. So are text
that is no UTF-8, and a header that holds another delimiter than the one in use.

Only the columns that a recipe uses are read. Files of more than 4 MiB are kept as a copy in the cache of the `datasets` library
(`HF_DATASETS_CACHE`), under a name made from all their bytes: a copy is never older than its files.

## Folders of media files

Sub-folders name splits and classes, on either level:

```
pets/train/cat/1.jpg     splits, then classes
pets/cat/train/1.jpg     classes, then splits
pets/cat/1.jpg           classes alone: all files are of the split train
pets/1.jpg               no classes; where all files are called so, splits by file names: train_1.jpg, test_1.jpg
```

One folder that holds all of them, as archives leave it, changes nothing. If some folders are called after a split and others
beside them are not, or two words name one split (`test` and `eval`), the folder is refused and names them. Where classes really
are called so (`train` beside `bus`), a pattern says it: `traffic/**/*.jpg` has no splits, and the first folder below `traffic`
names the class.

Folders below those of classes are no labels, and are told. To have them, give the path of one class, or a table beside.

## Texts beside media files

Where at least half of the media files have a text of their name beside them, as `1.jpg` and `1.txt`, it is the column `text`. A
file without one lacks its text, and is told. Fewer texts are notes, and are passed over.

## Arrays of many samples

A `.npy` or `.npz` file is one sample, or holds many along its first axis.

| file | read as |
|---|---|
| an array of three axes or more: `n x channels x steps`, `n x points x 3`, `n x height x width x 3` | n samples |
| an `.npz` with an array `y`, `label`, `labels`, `target` or `targets` | samples with labels |
| a folder of `X.npy` and `y.npy` alone | samples with labels |
| names with a split, such as `x_train` and `x_test` | the splits |
| one array of two axes, up to 16 along one of them | one sample, such as a recording or a cloud |
| one array of two axes, more along both | asked: `data.arrays=many`, or `one` |
| a folder of several files of two axes | one sample each |

`data.arrays` (`--arrays` in commands) says so in every case. Several arrays beside each other are columns of their names. `.npy`
files are read as needed, and may be larger than memory. Arrays of Python objects are refused.

## Splits

| split | words |
|---|---|
{splits}

`data.split` takes the name of the split, or the word that the files use. Words are read in upper and lower case. The name of a
folder may go on with {endings}, a sign or a number: `test_images`, `trainset`, `val2017`. A word inside of a name counts where
several splits are named so: `seg_train` beside `seg_test`.

Table files are read alike, by their own name or that of a folder: `train-00000-of-00010.parquet`, `dev.csv`, `mnist_test.csv`.
Either all of them are called after a split or none: a nameless file might hold the test rows again.

## Links

Links to folders and files are followed, in folders and in patterns. A link that leads back to a folder above is not followed;
links that lead nowhere are counted, and both are told. A folder that links make part of two others is read each time, and told.

## A text file beside each sound

```
calls/1.wav
calls/1.txt              0.400<TAB>1.150<TAB>dog
```

A text file of the same name holds the [segments of time](adapt.md#segments-of-time) of a sound, as Audacity exports them: start,
end and label, with tabs between. Times are seconds. Lines that begin with a backslash hold frequencies, and aren't read. Where one
sound has such a file, all need one.

## A table beside media files

A folder of media files with one table, or one for each split, is read by the table: a row is a sample, its columns are columns
of the data.

```
pets/metadata.csv        file_name,label
pets/images/1.jpg        images/1.jpg,cat
```

The file is named by the column `file_name`, as the `datasets` library has it, or by any column whose cells name files of the
folder: relative to the table, to the folder, or by the end of their way if only one file ends so. It is found under the name
that the modality looks for, such as `image`. A column `label` is the label; others are named by `data.columns`. Media files
that the table does not name are told; a row without its file is told, and an error when it is read.

In any table, a relative path in a cell of a media modality is looked for beside the table file first, then in the working
directory.
"""


def plain(suffixes: Collection[str]) -> list[str]:
    """Suffixes without those of packed files."""
    return [suffix for suffix in suffixes if not suffix.endswith(COMPRESSED)]


def files_page() -> str:
    """The page on files, its tables those that the readers use."""
    rows = [("tables", plain(TABLES))] + [(name, plain(find(name).suffixes)) for name in installed() if find(name).suffixes]
    suffixes = ["| kind | suffixes |\n|---|---|"] + [
        f"| {name} | {' '.join(f'`{each}`' for each in found)} |" for name, found in rows
    ]
    splits = [f"| `{split}` | {', '.join(f'`{word}`' for word in words)} |" for split, words in SPLITS.items()]
    endings = ", ".join(f"`{ending}`" for ending in ENDINGS)
    return FILES.format(suffixes="\n".join(suffixes), splits="\n".join(splits), endings=endings)


def main() -> None:
    folder = Path(__file__).parent
    (folder / "recipe.md").write_text(reference(json_schema()), encoding="utf-8")
    (folder / "files.md").write_text(files_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
