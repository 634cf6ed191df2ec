"""Puts what isn't the library into the wheel, below diffalign/clone: `stages` is no name for site-packages."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = [
    "pipeline.py", "params.yaml", "dvc.yaml", "prefect.yaml", "prefect.toml", ".gitignore", ".dvcignore",
    ".dvc/config", ".dvc/plots", "arena", "flows", "stages", "studies", "presets", "filters", "prompts", "assets",
]  # fmt: skip


class Build(build_py):
    """Builds the package; an editable one has the clone beside it."""

    def finalize_options(self) -> None:
        """Leaves the packages beside diffalign to `run`."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [name for name in self.packages if name.split(".")[0] == "diffalign"]
            self.py_modules = []

    def run(self) -> None:
        """Copies the carried files beside the package's."""
        super().run()
        if self.editable_mode:
            return
        for name in CARRIED:
            to = Path(self.build_lib, "diffalign", "clone", name)
            to.parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(name, to)


setup(cmdclass={"build_py": Build})
