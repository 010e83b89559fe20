"""Counts the gradient checks of a run, for the line pytest prints at its end."""

import pytest

ERRORS = pytest.StashKey()


def pytest_configure(config):
    config.stash[ERRORS] = {}


@pytest.fixture(scope="session")
def record_error(pytestconfig):
    """record_error(kind, error) notes one gradient that was checked, and returns the error."""

    def record(kind, error):
        pytestconfig.stash[ERRORS].setdefault(kind, []).append(float(error))
        return error

    return record


def pytest_terminal_summary(terminalreporter, config):
    errors = config.stash[ERRORS]
    if errors:
        count = sum(map(len, errors.values()))
        terminalreporter.write_line(f"gradient checks: {count}, worst relative error of each kind:")
        for kind, values in errors.items():
            terminalreporter.write_line(f"  {max(values):.1e} of {len(values)}: {kind}")
