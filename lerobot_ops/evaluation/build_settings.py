"""What a build of an image takes from this machine: certificates, where pip finds packages, proxies."""

import os
import subprocess
import sys
from pathlib import Path


def host_settings() -> dict[str, bytes]:
    """`host-ca.crt` and `host-pip.conf`, where this machine has its own, for a stage that is left behind."""
    files = {}
    names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    bundle = next((os.environ[name] for name in names if os.environ.get(name)), "")
    if bundle and Path(bundle).is_file():
        files["host-ca.crt"] = Path(bundle).read_bytes()
    settings = _pip_settings()
    if settings:
        lines = ["[global]", *(f"{name} = {value}" for name, value in sorted(settings.items()))]
        files["host-pip.conf"] = ("\n".join(lines) + "\n").encode()
    return files


def proxies() -> dict[str, str]:
    """Docker takes these without keeping them in the image's history."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    return {name: os.environ[name] for name in names if name in os.environ}


def _pip_settings() -> dict[str, str]:
    """Where this user's pip finds packages, but for folders, which the build does not see."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    settings = {}
    for option in ("index-url", "extra-index-url", "trusted-host"):
        value = os.environ.get(f"PIP_{option.upper().replace('-', '_')}") or found.get(option, "")
        words = [word for word in value.split() if not word.startswith(("file:", "/", "."))]
        if words:
            settings[option] = " ".join(words)
    return settings
