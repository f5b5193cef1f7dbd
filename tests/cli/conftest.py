import pytest

from diptych import cli


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs the command; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return exit.value.code or 0, out, err

    return run
