"""docker/, as far as it shows without an engine. `make docker-check` builds and runs it."""

import fnmatch
import re
import subprocess

import pytest
import yaml

from common import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def steps(path):
    """(instruction, arguments) of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n", " ", text)
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def pins():
    return dict(line.split("==") for name in ("build", "run", "cuda")
                for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines()
                if "==" in line)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
class TestDockerfile:
    def test_what_is_copied_exists_and_reaches_the_engine(self, path):
        kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
                if line.startswith("!")]
        for instruction, arguments in steps(path):
            if instruction != "COPY" or "--from" in arguments:
                continue
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source.rstrip("/"), name) or source.startswith(name + "/")
                           for name in kept), f".dockerignore leaves {source} out"

    def test_versions(self, path):
        base = next(arguments for instruction, arguments in steps(path) if instruction == "ARG")
        assert re.fullmatch(r"BASE=debian:bookworm-\d{8}-slim", base)
        known = pins()
        for _, arguments in steps(path):
            for name, version in re.findall(r"([\w-]+)===?([\w.]+)", arguments):
                assert version == known[name]
            for command in re.findall(r"pip install ([^&;]*)", arguments):
                assert " ." in f" {command}" or "requirements/" in command  # nothing without a pin
                for name in re.findall(r"(?<=\s)[A-Za-z][\w-]*(?=\s|$)", command.split(" -r ")[-1]):
                    assert name in known, name

    def test_the_user_and_the_health_check(self, path):
        last = max(i for i, (instruction, _) in enumerate(steps(path)) if instruction == "FROM")
        final = dict(steps(path)[last:])
        assert final["USER"] == "1000"
        assert '["python", "-m", "horovod_partial.check"]' in final["HEALTHCHECK"]

    def test_setup_has_what_it_reads(self, path):
        copied = " ".join(arguments for instruction, arguments in steps(path)
                          if instruction == "COPY")
        for name in ("setup.py", "pyproject.toml", "LICENSE", "NOTICE", "README.md",
                     "tools/host.py", "patches/", "horovod_partial/"):
            assert name in copied.split()


def test_the_toolkit_is_that_of_pytorch():
    assert pins()["nvidia-nccl-cu13"] and pins()["nvidia-cuda-nvcc"].startswith("13.0.")


def test_compose():
    job = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    services = job["services"]
    command = services["launcher"]["command"]
    hosts = dict(host.split(":") for host in command[command.index("-H") + 1].split(","))
    assert sum(map(int, hosts.values())) == int(command[command.index("-np") + 1]) == 4
    for host in hosts:
        assert services[host]["hostname"] == host
        assert services[host]["command"][0] == "start-worker"
        assert host in services["launcher"]["depends_on"]
    assert {service["image"] for service in services.values()} == {"horovod-partial:cpu"}
    assert (ROOT / "docker" / services["keys"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["keys"]["build"]["dockerfile"]).exists()


def test_kubernetes():
    service, workers, launcher = yaml.safe_load_all(
        (ROOT / "docker/kubernetes/job.yaml").read_text())
    assert [part["kind"] for part in (service, workers, launcher)] == [
        "Service", "StatefulSet", "Job"]
    labels = workers["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == workers["spec"]["selector"]["matchLabels"]
    assert workers["spec"]["serviceName"] == service["metadata"]["name"]
    script = launcher["spec"]["template"]["spec"]["containers"][0]["args"][2]
    hosts = re.search(r"-H (\S+)", script).group(1).split(",")
    names = [f"{workers['metadata']['name']}-{i}.{service['metadata']['name']}:2"
             for i in range(workers["spec"]["replicas"])]
    assert hosts == names and "-np 4" in script
    port = workers["spec"]["template"]["spec"]["containers"][0]["args"][2]
    assert f"--ssh-port {port}" in script and service["spec"]["ports"][0]["port"] == int(port)
    for part in (workers, launcher):
        assert part["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]


def test_start_worker_is_a_shell_script():
    subprocess.run(["sh", "-n", str(ROOT / "docker/start-worker")], check=True)
