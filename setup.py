"""The package list: the one thing that pyproject.toml cannot compute for folders that are installed under another name."""

from setuptools import find_namespace_packages, find_packages, setup

MOVED = ("callbacks", "experiments")

packages = find_packages(include=["confreg", "confreg.*"], exclude=[f"confreg.{name}*" for name in (*MOVED, "conf")])
for name in MOVED:
    packages += [f"confreg.{package}" for package in find_packages(include=[name, f"{name}.*"])]
packages += [f"confreg.{package}" for package in find_namespace_packages(include=["conf", "conf.*"])]

setup(packages=packages)
