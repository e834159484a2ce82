"""Another name of ``fairseq.logging.metrics``, for plugins written for fairseq: ``from fairseq import metrics``."""

from fairseq.logging.metrics import log_derived as log_derived
from fairseq.logging.metrics import log_scalar as log_scalar
from fairseq.logging.metrics import log_scalar_sum as log_scalar_sum
