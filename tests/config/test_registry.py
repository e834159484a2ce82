"""Registries: built-ins by path, plugins by decorator, and messages about unknown names."""

from dataclasses import dataclass

import pytest

from fairseq.config.registry import Registry
from fairseq.criterions import CRITERIONS
from fairseq.errors import ConfigError
from fairseq.models import MODELS, architecture, architecture_names
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.tasks import TASKS


@dataclass(frozen=True)
class Config:
    """Config."""


@pytest.fixture
def animals() -> Registry:
    registry = Registry("animal", "--animal")
    registry.add("cat", "json:dumps", Config)
    registry.register("dog", config=Config)(lambda: "wuff")
    registry.add("ant", "json:loads")
    return registry


def test_names_keep_their_order(animals: Registry) -> None:
    assert animals.names() == ("cat", "dog", "ant")


def test_a_built_in_is_imported_when_asked_for(animals: Registry) -> None:
    assert animals.get("cat")([1]) == "[1]"
    assert animals.get("dog")() == "wuff"


def test_configs_are_listed_once(animals: Registry) -> None:
    assert animals.configs() == (Config,)
    assert animals.config("ant") is None


def test_the_decorator_returns_what_it_decorates(animals: Registry) -> None:
    def factory() -> None: ...

    assert animals.register("owl")(factory) is factory
    assert animals.get("owl") is factory


def test_a_name_is_taken_once(animals: Registry) -> None:
    with pytest.raises(ConfigError, match="animal 'cat' is registered twice; give the second one another name"):
        animals.add("cat", "json:dumps")


@pytest.mark.parametrize("lookup", ["get", "config"])
def test_an_unknown_name_is_answered_with_the_nearest_and_all(animals: Registry, lookup: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(animals, lookup)("dogg")
    assert str(caught.value) == (
        "--animal dogg is not a known animal; did you mean dog? (known: cat, dog, ant; a plugin's needs --user-dir)"
    )


@pytest.mark.parametrize("registry", [TASKS, MODELS, CRITERIONS, OPTIMIZERS, LR_SCHEDULERS], ids=lambda r: r.kind)
def test_every_built_in_can_be_imported(registry: Registry) -> None:
    for name in registry.names():
        if name == "language_modeling":
            pytest.importorskip("fairseq.data.dictionary")
        assert callable(registry.get(name))


def test_built_in_names_are_the_published_ones() -> None:
    assert TASKS.names() == ("language_modeling",)
    assert MODELS.names() == ("transformer_lm",)
    assert set(CRITERIONS.names()) == {"cross_entropy", "adaptive_loss", "label_smoothed_cross_entropy"}
    assert set(OPTIMIZERS.names()) == {"nag", "adam", "sgd", "adagrad", "adamw", "adadelta", "adamax", "adafactor"}
    schedules = {"fixed", "cosine", "inverse_sqrt", "polynomial_decay", "triangular", "reduce_lr_on_plateau"}
    assert set(LR_SCHEDULERS.names()) == {*schedules, "step", "tri_stage"}
    assert set(architecture_names()) >= {
        "transformer_lm",
        "transformer_lm_big",
        "transformer_lm_wiki103",
        "transformer_lm_baevski_wiki103",
        "transformer_lm_gbw",
        "transformer_lm_baevski_gbw",
        "transformer_lm_gpt",
    }


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--arch transformer_lm_wiki13 .*did you mean transformer_lm_wiki103"):
        architecture("transformer_lm_wiki13")
