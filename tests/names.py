"""Names of parametrized tests."""

import re


def name_of(value):
    """Its repr without addresses, which is the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
