"""Measures how fast a model turns a text into rows of a datastore."""

import time
from itertools import islice

from fairseq.config.common import DeviceConfig
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import prepare
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.plan.config import PlanConfig
from fairseq.runtime.precision import Precision, select_device
from fairseq.runtime.progress import at_work

# Positions of a batch, as `fairseq-eval-lm` has it by default, and seconds that are enough for a rate.
BATCH_TOKENS, ENOUGH_S = 36000, 5.0


def measure_model(config: PlanConfig, device: DeviceConfig) -> tuple[int, float]:
    """Returns the width of a model's keys, and the tokens a second that it turns into rows."""
    assert config.path is not None
    settings = EvalConfig(
        path=config.path,
        gen_subset=config.gen_subset,
        context_window=config.context_window,
        max_tokens=BATCH_TOKENS,
    )
    evaluation = prepare(settings, {"data": config.data}, Precision(device, select_device(device)))
    scorer = SequenceScorer(evaluation.models, evaluation.precision)
    batches = [evaluation.dataset.collate(batch) for batch in islice(evaluation.batches, 32)]
    with at_work("measure the model"):
        scorer.context_vectors(batches[0])
        tokens, start = 0, time.perf_counter()
        for batch in batches:
            tokens += len(scorer.context_vectors(batch)[1].cpu())
            if time.perf_counter() - start >= ENOUGH_S:
                break
        seconds = time.perf_counter() - start
    return int(evaluation.models[0].key_dimension), tokens / seconds
