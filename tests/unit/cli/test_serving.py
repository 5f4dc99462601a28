"""What `cakework up` gives its parts."""

from cakework.cli.serving import of_router


def test_the_router_has_no_secrets_of_roots() -> None:
    """Strangers speak to it: it is given its settings and what programs need, by name."""
    given = {
        "CAKEWORK_PORT": "8081",
        "CAKEWORK_API_KEY": "cw_x",
        "CAKEWORK_DATABASE_URL": "postgresql://x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
        "HOMEBREW_TOKEN": "x",
        "HOME": "/root",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/src",
        "LANG": "C.UTF-8",
    }
    assert of_router(given).keys() == {"CAKEWORK_PORT", "HOME", "PATH", "PYTHONPATH", "LANG"}
