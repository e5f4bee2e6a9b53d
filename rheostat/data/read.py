"""From what the user points at to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rheostat.data import builtin
from rheostat.data.base import Dataset, Form, Kind
from rheostat.errors import DataError, SettingError, unknown

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
ARRAYS = (".npz",)
SUPPORTED = (
    f"Supported: tables ({', '.join(TABLES)}), arrays ({', '.join(ARRAYS)}), a folder of images with a folder per "
    "class, IDX files of images, texts with labels (a table, or a folder per class), a text file to model (.txt), "
    "pairs of sentences (.tsv, or two files such as train.en and train.de), tables saved by Hugging Face datasets, and "
    f"built in: {', '.join(builtin.NAMES)}."
)
TOKENS = ("character", "word", "bpe")


def read(
    target: str | Path,
    *,
    label: str | int | None = None,
    test: str | Path | None = None,
    kind: Kind | str | None = None,
    form: Form | None = None,
    tokens: str | None = None,
    vectors: str | Path | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """The data set of a file, a folder or a built-in name.

    `label` is the column of a table to predict: its name, its number from 1, or "last"; or, of pairs of sentences, the
    language to translate into. `test` is another file of the same kind, held out. `kind` (classification or
    regression) is inferred from the labels where it is not given, and so is the `form`. `tokens` (character, word or
    bpe) are what texts are read as, and `vectors` a file of pretrained word vectors. `validation_fraction` of the
    rows, drawn by `seed`, are validated on where the data do not say which.

    Raises DataError for data that cannot be trained on, and SettingError for an argument that is not allowed.
    """
    if kind is not None and kind not in list(Kind):
        raise SettingError(unknown("kind", kind, Kind))
    if tokens is not None and tokens not in TOKENS:
        raise SettingError(unknown("kind of tokens", tokens, TOKENS))
    kind = None if kind is None else Kind(kind)
    path = Path(target)
    given = {"label": label, "test": test, "kind": kind, "tokens": tokens, "vectors": vectors}
    if str(target) in builtin.NAMES:
        _refuse(f"{target} is built in", given, ())
        return builtin.load_builtin(str(target), validation_fraction, seed)
    column = None if label is None else str(label)
    form = form or _form(path, column)
    if form is Form.PAIRS:
        from rheostat.data.pairs import read_pairs

        _refuse(f"{path.name} holds pairs of sentences", given, ("label", "test"))
        return read_pairs(path, column, test, seed=seed)
    test_path = None if test is None else Path(test)
    for place in filter(None, (path, test_path)):
        if not place.exists():
            raise DataError(f"There is no file {place} (in {Path.cwd()}).")
    if form is Form.IMAGES:
        _refuse(f"{path.name} holds images", given, ("test",))
        return _images(path, test_path, validation_fraction, seed)
    if form is Form.TEXTS:
        from rheostat.data.texts import read_texts

        _refuse(f"{path.name} holds texts with labels", given, ("label", "test", "tokens", "vectors"))
        words = None if vectors is None else Path(vectors)
        return read_texts(path, column, test_path, validation_fraction, seed, tokens or "word", words)
    if form is Form.STREAM:
        from rheostat.data.streams import read_stream

        _refuse(f"{path.name} is a text to be modelled", given, ("test", "tokens"))
        return read_stream(path, test_path, tokens or "character")
    if _suffix(path) in ARRAYS:
        from rheostat.data.arrays import read_npz

        _refuse(f"the labels of {path.name} are its array y", given, ("test", "kind"))
        return read_npz(path, test_path, kind, validation_fraction, seed)
    from rheostat.data.tabular import read_tabular

    _refuse(f"{path.name} is a table", given, ("label", "test", "kind"))
    return read_tabular(path, column, test_path, kind, validation_fraction, seed)


def _form(path: Path, label: str | None) -> Form:
    """What the examples are, by the names and the beginning of the files. Raises DataError where nothing fits."""
    from rheostat.data.huggingface import form_of, is_saved
    from rheostat.data.idx import is_idx
    from rheostat.data.images import is_image_folder
    from rheostat.data.pair_files import looks_like_pairs
    from rheostat.data.streams import looks_like_stream
    from rheostat.data.text_files import looks_like_texts

    if is_saved(path):
        form = form_of(path, label)
        if form not in (Form.ROWS, Form.TEXTS):
            raise DataError(f"{path.name} holds {form}, but of what datasets saves only tables and texts are read.")
        return form
    if is_idx(path) or is_image_folder(path):
        return Form.IMAGES
    if looks_like_pairs(path):
        return Form.PAIRS
    if looks_like_texts(path):
        return Form.TEXTS
    if looks_like_stream(path):
        return Form.STREAM
    suffix = _suffix(path)
    if suffix not in (*TABLES, *ARRAYS):
        if path.is_dir():
            raise DataError(f"The folder {path} holds nothing that can be read. {SUPPORTED}")
        if not suffix:
            raise DataError(unknown("built-in data set", path, builtin.NAMES) + f" {SUPPORTED}")
        raise DataError(f"{path}: files of the kind {suffix!r} cannot be read. {SUPPORTED}")
    return Form.ROWS


def _images(path: Path, test: Path | None, validation_fraction: float, seed: int) -> Dataset:
    from rheostat.data.idx import is_idx
    from rheostat.data.images import read_idx, read_images

    if not is_idx(path):
        return read_images(path, test, validation_fraction, seed)
    if test is not None:
        raise SettingError(
            f"test={str(test)!r}: the images to test on are those named t10k or test beside {path.name}."
        )
    return read_idx(path, validation_fraction, seed)


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def _refuse(why: str, given: Mapping[str, object], allowed: tuple[str, ...]) -> None:
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise SettingError(f"{why}, so {name}={str(value)!r} has no meaning: leave it out.")
