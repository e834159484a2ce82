"""``--model_args``: what they come to, and what is refused."""

from typing import Any

import pytest

from fairseq.errors import ConfigError
from fairseq.harness.model_args import HarnessConfig

KNN = {"dstore_filename": "store/dstore", "indexfile": "store/knn.index"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"path": "m"}, HarnessConfig("m")),
        ({"pretrained": 5}, HarnessConfig("5")),
        ({"path": "m", **KNN}, HarnessConfig("m", None, "store/dstore", "store/knn.index")),
        (
            {"path": "m", **KNN, "k": 4, "lambda": 0.1, "knn_temp": "auto", "dstore_fp16": True},
            HarnessConfig(
                "m",
                None,
                "store/dstore",
                "store/knn.index",
                {"k": 4, "lmbda": 0.1, "knn_temp": "auto", "key_fp16": True},
            ),
        ),
        ({"path": "m", "batch_size": "auto:4", "max_batch_size": 8}, HarnessConfig("m")),
        ({"path": "m", "batch_size": "16", "dtype": "bf16"}, HarnessConfig("m", dtype="bfloat16", batch_size=16)),
        ({"path": "m", "dtype": "auto", "data": None}, HarnessConfig("m")),
        ({"path": "m", "trust_remote_code": True}, HarnessConfig("m", trust_remote_code=True)),
        ({"path": "m", "bpe": "gpt2"}, HarnessConfig("m", text={"bpe": "gpt2"})),
    ],
)
def test_settings(given: dict[str, Any], found: HarnessConfig) -> None:
    assert HarnessConfig.of(given, ("bpe",)) == found
    assert found.has_neighbours == (found.dstore_filename is not None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--model_args must name a model; give path="),
        ({"path": "m", "lmda": 0.2}, "'lmda' is not a setting of --model_args of fairseq-knnlm; did you mean lmbda"),
        ({"path": "m", "dstore_filename": "d"}, "name dstore_filename, but neighbours need indexfile as well"),
        ({"path": "m", "indexfile": "d"}, "name indexfile, but neighbours need dstore_filename as well"),
        ({"path": "m", "k": 5, "lmbda": 0.1}, "--model_args give k, lmbda, but no datastore; give dstore_filename="),
        ({"path": "m", "batch_size": 0}, "--batch_size must be a whole number from 1 on, or auto, but is 0"),
        ({"path": "m", "batch_size": "many"}, "--batch_size must be a whole number from 1 on, or auto, but is 'many'"),
        ({"path": "m", "max_length": 0}, "max_length must be a whole number from 1 on, but is 0"),
        ({"path": "m", "prefix_token_id": "a"}, "prefix_token_id must be a whole number from 0 on, but is 'a'"),
        ({"path": "m", "add_bos_token": "yes"}, "add_bos_token must be True or False, but is 'yes'"),
        ({"path": "m", "trust_remote_code": "yes"}, "trust_remote_code must be True or False, but is 'yes'"),
        ({"path": "m", "dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, but is int8"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HarnessConfig.of(given)
