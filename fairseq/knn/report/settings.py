"""λ, k and T of a page: what was typed, else what a sweep of the retrieval has chosen, else those of its run."""

from fairseq.knn.config import AUTO, AUTO_SHARE, multiple
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.report.scores import MixtureSettings
from fairseq.knn.retrieval.results import swept_choice
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.retrieval.unit import unit_of


def settings_of(config: ReportConfig, retrieval: Retrieval) -> tuple[MixtureSettings, str]:
    """Returns how neighbours are weighed, and in words where that comes from.

    Raises:
        ConfigError: more neighbours are asked for than were saved, or ``auto`` where distances have no unit.
        DatastoreError: the retrieval's results are broken.
    """
    choice, manifest = swept_choice(retrieval), retrieval.manifest
    if config.k is not None:
        retrieval.check_k(config.k)
    if choice is not None:
        others, source = (choice.lmbda, choice.k, choice.knn_temp), choice.words
    else:
        others, source = (manifest.lmbda, retrieval.k, manifest.knn_temp), "as in the saved run"
    typed_temp = config.knn_temp
    if typed_temp == AUTO:
        typed_temp = multiple(unit_of(retrieval), manifest.auto_share or AUTO_SHARE)
    typed = {"--lmbda": config.lmbda, "--k": config.k, "--knn-temp": typed_temp}
    given = [name for name, value in typed.items() if value is not None]
    lmbda, k, temperature = (
        other if value is None else value for value, other in zip(typed.values(), others, strict=True)
    )
    if given:
        by_flag = " and ".join(given)
        source = f"by {by_flag}" if len(given) == len(typed) else f"by {by_flag}, else {source}"
    return MixtureSettings(int(k), temperature, lmbda), source
