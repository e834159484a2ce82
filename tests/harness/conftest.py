"""Fixtures of the tests of the harness."""

from collections.abc import Iterator

import pytest

from tests.builders.harness_model import TinyModel, make_tiny_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Returns the tiny model."""
    return make_tiny_model(tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps data sets' cache out of the home directory, and the network out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
            patch.setenv(name, "1")
        yield
