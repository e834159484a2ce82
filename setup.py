"""The long description; everything else is declared in pyproject.toml.

The README's links and images are relative to the repository. Outside of it, their text is what is left of them.
"""

import re
from pathlib import Path

RELATIVE = r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)[^()\s]*[./][^()\s]*\)"


def long_description() -> str:
    """Returns the README with the text of relative links and images in their place."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return re.sub(RELATIVE, r"\1", re.sub("!" + RELATIVE, r"\1", text))  # an image may be a link's text


if __name__ == "__main__":
    from setuptools import setup

    setup(long_description=long_description(), long_description_content_type="text/markdown")
