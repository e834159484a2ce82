"""Configuration: flags declared as dataclass fields, the command line made of them, registries and plugins."""

from fairseq.config.flags import Flags as Flags
from fairseq.config.flags import flag as flag
