# SPDX-License-Identifier: Apache-2.0
"""Print what pyproject.toml requires, one a line: to run, and for the extras named; without a name, to build."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    settings = tomllib.load(file)
project = settings["project"]
extras = [requirement for name in sys.argv[1:] for requirement in project["optional-dependencies"][name]]
print(*project["dependencies"], *(extras if sys.argv[1:] else settings["build-system"]["requires"]), sep="\n")
