#!/bin/sh
# Installs what a repository of the Hub asks for into /opt/repository, a folder of its own: wheels alone, which run nothing
# while they are unpacked, and by a pip that never starts the Python that would import them.
set -eu
cd /build
if [ -e host-ca.crt ]; then export PIP_CERT=/build/host-ca.crt SSL_CERT_FILE=/build/host-ca.crt; fi
if [ -e host-pip.conf ]; then export PIP_CONFIG_FILE=/build/host-pip.conf; fi
mkdir /opt/repository
python3 -m venv /opt/installer
/opt/installer/bin/pip install --quiet --no-cache-dir --only-binary=:all: --no-compile --target /opt/repository \
    --constraint requirements.txt --requirement repository.txt
