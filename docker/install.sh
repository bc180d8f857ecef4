#!/bin/sh
# Runs in the build of a benchmark's image: makes /opt/worker from /build/requirements.txt, then runs /build/prepare.py in
# it, where a recipe has one. The virtual environment sandbox does the same on the host: evaluation/sandbox/venv.py.
set -eu
cd /build
if [ -e host-ca.crt ]; then export PIP_CERT=/build/host-ca.crt SSL_CERT_FILE=/build/host-ca.crt; fi
if [ -e host-pip.conf ]; then export PIP_CONFIG_FILE=/build/host-pip.conf; fi
python3 -m venv /opt/worker
/opt/worker/bin/pip install --quiet --no-cache-dir --no-deps --only-binary=:all: -r requirements.txt
if [ -e prepare.py ]; then /opt/worker/bin/python prepare.py; fi
/opt/worker/bin/pip uninstall --quiet -y pip setuptools
