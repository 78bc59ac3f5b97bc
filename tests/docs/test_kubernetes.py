"""The sample manifest: valid for Kubernetes, and with the settings and endpoints that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from coordinator.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docker" / "kubernetes" / "coordinator.yaml"
VERSIONS = ("1.29", "1.35")


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def test_the_manifest_is_valid() -> None:
    """Every object fits the schemas of an older and a newer Kubernetes, strictly: no unknown member."""
    kinds = [document["kind"] for document in documents()]
    assert ["Secret", "ConfigMap", "StatefulSet", "Service", "PodDisruptionBudget"] == kinds
    for version in VERSIONS:
        for document in documents():
            kubernetes_validate.validate(document, version, strict=True)


def test_its_settings_and_probes_exist() -> None:
    """The settings are the coordinator's and valid together; the probes ask paths of the golden list."""
    secret, config, workload, *_ = documents()
    given = {**secret["stringData"], **config["data"]}
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
    assert {name.lower() for name in given} <= Settings.model_fields.keys()
    assert ("standard", "prod") == (settings.mode, settings.app_env)
    [container] = workload["spec"]["template"]["spec"]["containers"]
    paths = {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    golden = (ROOT / "tests" / "golden" / "operations-0.1.txt").read_text()
    assert paths == set(re.findall(r"GET (/health/\w+)", golden))
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for file in (settings.tls_cert_file, settings.tls_key_file, settings.data_dir):
        assert any(str(file).startswith(mount) for mount in mounts), file
