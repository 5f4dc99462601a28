"""What `cakework up` gives its parts."""

from cakework.cli.serving import of_router


def test_the_router_has_no_secrets_of_roots() -> None:
    """Strangers speak to it: it is given its settings and what programs need, by name."""
    given = {
        "CAKEWORK_PORT": "8081",
        "cakework_proxy_host": "0.0.0.0",
        "CAKEWORK_API_KEY": "cw_x",
        "cakework_api_key": "cw_x",
        "CAKEWORK_DATABASE_URL": "postgresql://x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
        "HOMEBREW_TOKEN": "x",
        "HOME": "/root",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/src",
        "LANG": "C.UTF-8",
    }
    settings = {"CAKEWORK_PORT", "cakework_proxy_host"}
    assert of_router(given).keys() == {*settings, "HOME", "PATH", "PYTHONPATH", "LANG"}
