"""Tasks of the harness in local files: a choice, whole documents, and texts to generate."""

import json
from pathlib import Path
from typing import Any

import yaml

CHOICES = (
    ("The children", [" played by the river", " read a text", "."], 0),
    ("A language model reads a text from", [" left", " right", " evening"], 0),
    ("for name in", [" names", " numbers", " children"], 1),
    ("The weather was", [" fine", " alike", " fine, and"], 2),
    ("def total(", ["numbers", "names", "number"], 0),
)


def write_tasks(directory: Path, documents: tuple[str, ...]) -> Path:
    """Writes tiny_choice, tiny_documents and tiny_texts, and returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    choices = [{"query": query, "choices": choices, "gold": gold} for query, choices, gold in CHOICES]
    _write(
        directory,
        "tiny_choice",
        choices,
        output_type="multiple_choice",
        doc_to_text="{{query}}",
        doc_to_target="{{gold}}",
        doc_to_choice="{{choices}}",
        target_delimiter="",
        metric_list=[{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    )
    names = {"word_perplexity": "weighted_perplexity", "byte_perplexity": "weighted_perplexity", "bits_per_byte": ""}
    _write(
        directory,
        "tiny_documents",
        [{"page": document} for document in documents],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        metric_list=[{"metric": name, "aggregation": how or name} for name, how in names.items()],
    )
    _write(
        directory,
        "tiny_texts",
        [{"question": query, "answer": choices[0]} for query, choices, _ in CHOICES],
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    return directory


def _write(directory: Path, name: str, records: list[dict[str, Any]], **settings: Any) -> None:
    data = directory / f"{name}.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    files = {"data_files": {"test": str(data)}}
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **settings}
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
