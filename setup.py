"""Finds the packages: cli, exporters and models stand at the top of the repository, under names inside amalgam_edge."""

from setuptools import find_namespace_packages, find_packages, setup

TOP_FOLDERS = ("cli", "exporters", "models")

setup(
    packages=[
        *find_namespace_packages(include=["amalgam_edge", "amalgam_edge.*"]),
        *(f"amalgam_edge.{name}" for top in TOP_FOLDERS for name in find_packages(include=[top, f"{top}.*"])),
    ],
    package_dir={f"amalgam_edge.{top}": top for top in TOP_FOLDERS},
)
