"""``fairseq-knnlm forget``: rows that no search finds from then on.

    1. which rows: a document's, a source's, or a range
    2. PREFIX.forgotten.….json, then the manifest that names it: from that moment they are forgotten

A second command, ``--compact``, makes files without them (fairseq/knn/maintain/compact.py).

A row is a document's if its token stands there. Rows of what follows a document have contexts that may reach back into
it; ``--following`` takes as many of them as one likes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fairseq.errors import ConfigError, counted, did_you_mean
from fairseq.knn.datastore.config import TextsConfig, parse_rows
from fairseq.knn.datastore.forgotten import remove_others, write_forgotten
from fairseq.knn.datastore.manifest import manifest_path, write_manifest
from fairseq.knn.datastore.provenance import Provenance, Source
from fairseq.knn.datastore.ranges import RowRanges, shown_ranges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.maintain.compact import compact
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.storage.files import locked
from fairseq.storage.outputs import claim_all, claim_index
from fairseq.storage.stores import FORGOTTEN, datastore_names

MOST_NAMED = 5


def forget(config: ForgetConfig, texts: TextsConfig, show: Callable[[str], None]) -> None:
    """Forgets what the flags name, and compacts the datastore where that was asked for.

    Raises:
        ConfigError: they name nothing that is there, or all that is left.
        DatastoreError: the datastore or an index cannot be read, or has no manifest.
        MismatchError: a text or an index is another one.
    """
    prefix = Path(config.prefix)
    if config.compact:
        claim_all("PREFIX", datastore_names(prefix))
        for indexfile in config.indexfile:
            claim_index(f"--indexfile {indexfile}", Path(indexfile), overwrite=False)
        show(compact(prefix, [Path(path) for path in config.indexfile], config.save_interval_s))
    elif config.document is None and config.rows is None and config.source is None:
        store = Datastore.open(prefix)
        store.require_manifest()
        show(_state(store.forgotten, store))
    else:
        if not config.dry_run:
            own = manifest_path(prefix)
            names = [(path, kind) for path, kind in datastore_names(prefix) if kind is FORGOTTEN or path == own]
            claim_all("PREFIX", names)
        with locked(prefix):
            _forget(config, texts, prefix, show)


def _forget(config: ForgetConfig, texts: TextsConfig, prefix: Path, show: Callable[[str], None]) -> None:
    # With its keys: half of a compaction that has taken its place is not to be changed.
    store = Datastore.open(prefix)
    manifest = store.require_manifest()
    name, chosen = _chosen(config, texts, store)
    if not chosen.num_rows:
        raise ConfigError(f"{name} has no rows in {prefix}: nothing to forget")
    forgotten = store.forgotten | chosen
    added = forgotten.num_rows - store.forgotten.num_rows
    if forgotten.num_rows == store.rows:
        raise ConfigError(f"{name} is all that {prefix} has left; remove its files instead")
    what = f"{name}: {counted(chosen.num_rows, 'row')}, {shown_ranges(chosen)}"
    if config.dry_run:
        show(f"{what}, of which {added} {_verb(added)} not forgotten yet; --dry-run: nothing was changed")
        return
    if added:
        manifest = manifest.replace(forgotten=write_forgotten(prefix, forgotten))
        write_manifest(manifest_path(prefix), manifest)
        show(f"{what}, {_verb(chosen.num_rows)} forgotten")
    else:
        show(f"{what}, {'was' if chosen.num_rows == 1 else 'were'} forgotten before; nothing to do")
    remove_others(prefix, manifest)
    show(_state(forgotten, store))


def _state(forgotten: RowRanges, store: Datastore) -> str:
    count = forgotten.num_rows
    they = "it is" if count == 1 else "they are"
    advice = f"{they} in the files until --compact" if count else "nothing to compact"
    rows = counted(store.rows, "row")
    return f"{store.prefix}: {count} of {rows} {_verb(count)} forgotten ({count / store.rows:.1%}); {advice}"


def _verb(count: int) -> str:
    return "is" if count == 1 else "are"


def _chosen(config: ForgetConfig, texts: TextsConfig, store: Datastore) -> tuple[str, RowRanges]:
    """Returns what is to be forgotten in words, and its rows."""
    if config.rows is not None:
        start, stop = parse_rows(config.rows)
        if stop > store.rows:
            raise ConfigError(f"--rows {config.rows} goes beyond the {store.rows} rows of {store.prefix}")
        return f"--rows {config.rows}", RowRanges.of([[start, stop]])
    provenance = Provenance(store, texts.data, texts.document_start)
    if config.source is not None:
        return _of_source(config.source, provenance)
    assert config.document is not None
    found, chosen = _documents(config.document, provenance), RowRanges.of([])
    for source, number in found:
        rows = source.rows_of(number)
        if config.following:
            end = int(source.documents.stop_D[number])
            rows |= source.map.rows_of(end, end + config.following).shifted(source.first_row)
        provenance.check_values(source, rows.ids())
        chosen |= rows
    if len(found) > 1:
        return f"{counted(len(found), 'document')} {config.document} ({_names(found)})", chosen
    source, number = found[0]
    return f"document {_name(source, number)} {source.title(number)!r}", chosen


def _of_source(name: str, provenance: Provenance) -> tuple[str, RowRanges]:
    segments = provenance.segments
    matches = [number for number, segment in enumerate(segments) if segment.is_called(name)]
    paths = {str(segments[number].settings.get("data")) for number in matches}
    known = sorted({str(segment.settings.get("data")) for segment in segments})
    if not matches:
        raise ConfigError(f"--source {name} is no source of {provenance.store.prefix}, which are {', '.join(known)}")
    if len(paths) > 1:
        raise ConfigError(f"--source {name} may be {' or '.join(sorted(paths))}; give more of the path")
    return f"source {paths.pop()}", RowRanges.of(pair for n in matches for pair in provenance.rows_of_segment(n).pairs)


def _documents(document: str, provenance: Provenance) -> list[tuple[Source, int]]:
    """Returns the document that a title, a file or ``SPLIT#NUMBER`` names, or all whose files a pattern fits."""
    numbered = re.fullmatch(r"(.*)#(\d{1,18})", document)
    everything = [(source, number) for source in provenance.sources() for number in range(len(source.documents))]
    matches = [(s, n) for s, n in everything if s.split.is_called(n, document)]
    if not matches and numbered is not None:
        name, number = numbered[1], int(numbered[2])
        matches = [(s, n) for s, n in everything if n == number and s.segment.is_called(name)]
    if not matches and (fitting := [(s, n) for s, n in everything if s.split.fits(n, document)]):
        return fitting
    if not matches:
        titles = [s.title(n) for s, n in everything]
        raise ConfigError(
            f"--document {document} is none of the {counted(len(titles), 'document')} of {provenance.store.prefix}"
            f"{did_you_mean(document, titles)} (fairseq-knnlm rows PREFIX --documents lists them)"
        )
    if len(matches) > 1:
        raise ConfigError(
            f"--document {document} is the title of {len(matches)} documents: {_names(matches)}; give one of these"
        )
    return matches


def _names(found: Sequence[tuple[Source, int]]) -> str:
    return ", ".join(_name(*place) for place in found[:MOST_NAMED]) + ", …" * (len(found) > MOST_NAMED)


def _name(source: Source, number: int) -> str:
    return f"{source.segment.name}#{number}"
