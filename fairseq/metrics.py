"""Another name of ``fairseq.logging.metrics``, for plugins written for fairseq: ``from fairseq import metrics``."""

from fairseq.logging.metrics import __getattr__ as __getattr__
from fairseq.logging.metrics import aggregate as aggregate
from fairseq.logging.metrics import log_derived as log_derived
from fairseq.logging.metrics import log_scalar as log_scalar
from fairseq.logging.metrics import log_scalar_sum as log_scalar_sum
from fairseq.logging.metrics import log_speed as log_speed
from fairseq.logging.metrics import log_start_time as log_start_time
from fairseq.logging.metrics import log_stop_time as log_stop_time
