"""The package `recsys`: what it needs, by exact version where the choices depend on each other."""

from pathlib import Path

from setuptools import find_packages, setup

# These versions were measured to work together; each cap says who asks for it.
INSTALL = [
    "pyspark==4.0.5",  # 4.1 wants pyarrow >= 15, which petastorm cannot use
    "delta-spark==4.0.1",
    "petastorm==0.13.1",
    "pyarrow>=14.0.2,<15",  # petastorm uses the legacy dataset API, removed in 15
    "numba>=0.61",  # the loops of the exact top-n (recsys/ranking/machine_code.py)
    "numpy>=1.26,<2",  # petastorm, pyarrow 14
    "setuptools<70",  # petastorm imports pkg_resources; Horovod's build needs it too
    "pandas>=2.2,<3",
    "torch==2.12.1",
    "mlflow==3.17.2",  # 3.18.0 cannot be installed: its skinny package is missing
    "faiss-cpu>=1.15.1",  # approximate lists (recsys/ranking/approximate.py)
    "pydantic>=2",
    "pyyaml",
    "tqdm",
    "jinja2",  # the page on a night's lists
    "matplotlib",
    "optuna>=4",  # the search for settings (recsys/train/search.py)
    "rich",
]

# Horovod is an sdist only and must be compiled against the installed torch,
# so it is an extra that scripts/setup/horovod.sh builds (with the tools listed here).
HOROVOD = [
    "horovod==0.28.1",
    "cffi>=1.4",
    "cloudpickle",
    "cmake<4",  # 4 refuses the old cmake_minimum_required of Horovod's sources
    "packaging",
    "pip",  # builds the wheel
    "psutil",
    "wheel",
]

# Clients of the stores that lists are exported to (docs/export.md); pure Python, so that they can
# be shipped to executors.
EXPORT = ["pg8000>=1.31.5,<2", "redis>=6"]

NOTEBOOKS = ["nbformat", "nbclient", "ipykernel"]

DEV = [
    "hypothesis",
    "import-linter",
    "mypy",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "types-PyYAML",
    "types-tqdm",
]


def find_files(folder: str, *patterns: str) -> list[str]:
    """Settings that an installed package takes along (a clone reads its own conf/ instead)."""
    return sorted(str(path) for pattern in patterns for path in Path(folder).glob(pattern))


setup(
    name="recsys",
    version="0.1.0",
    description="A batch recommender: Spark and Delta, Petastorm, Horovod, MLflow, Airflow",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["recsys*"]),
    package_data={"recsys": ["py.typed", "score/report.html"]},
    data_files=[
        ("share/recsys/conf", find_files("conf", "*.yaml", "*.properties")),
        ("share/recsys/conf/formats", find_files("conf/formats", "*.yaml")),
    ],
    install_requires=INSTALL,
    extras_require={"horovod": HOROVOD, "export": EXPORT, "notebooks": NOTEBOOKS, "dev": DEV},
    entry_points={"console_scripts": ["recsys=recsys.cli.main:main"]},
)
