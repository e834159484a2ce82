"""FAISS's words, and what it may take for a file."""

import faiss
import numpy as np
import pytest

from fairseq.knn.index.reading import COMPUTED_TABLE_BYTES, faiss_reason, memory_limit


def test_what_faiss_says_is_told_without_the_place_in_its_source() -> None:
    with pytest.raises(RuntimeError) as caught:
        faiss.IndexIVFFlat(faiss.IndexFlatL2(4), 4, 2).add(np.zeros((3, 4), np.float32))
    assert "Error in " in str(caught.value) and ".cpp:" in str(caught.value)
    assert faiss_reason(caught.value) == "Error: 'is_trained' failed"
    assert faiss_reason(RuntimeError("Error in f(\n int) at /a/b.cpp:12: x is 3\n")) == "x is 3"


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert faiss_reason(MemoryError()) == "MemoryError" and faiss_reason(ValueError(" no\n")) == "no"


@pytest.mark.skipif(not hasattr(faiss, "get_deserialization_vector_byte_limit"), reason="this FAISS has no limit")
def test_the_limit_is_that_of_the_file_and_ends_with_it(tmp_path) -> None:
    (tmp_path / "i").write_bytes(bytes(100))
    before = faiss.get_deserialization_vector_byte_limit()
    with pytest.raises(KeyError), memory_limit(tmp_path / "i"):
        assert faiss.get_deserialization_vector_byte_limit() == 100 + COMPUTED_TABLE_BYTES
        raise KeyError
    assert faiss.get_deserialization_vector_byte_limit() == before
