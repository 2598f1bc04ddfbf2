#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpack packages of a Debian release, built for another architecture, and what they depend on, into a folder:
#
#     tools/foreign.sh trixie arm64 build/arm64 python3 libgomp1
#
# Nothing is installed, so no root, no binfmt_misc and no chroot: qemu-user runs it with -L FOLDER.
set -euo pipefail
release=$1 arch=$2 folder=$3
shift 3
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$folder" "$apt"/{state/lists/partial,cache/archives/partial}
touch "$apt/status"

# From where this system's own packages come.
here=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
apt-get indextargets --format "\$(REPO_URI) \$(CODENAME)" "Created-By: Packages" |
  awk -v here="$here" -v release="$release" '$2 == here { print "deb", $1, release, "main"; exit }' >"$apt/list"
options=(-qq -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
  -o "Dir::Etc::sourcelist=$apt/list" -o Dir::Etc::sourceparts=/dev/null -o "APT::Architecture=$arch"
  -o "APT::Architectures=$arch" -o APT::Install-Recommends=false -o APT::Sandbox::User=root)
apt-get "${options[@]}" update
apt-get "${options[@]}" -y --download-only install "$@" >/dev/null

for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$folder"; done
for link in lib lib64; do
  [ ! -d "$folder/usr/$link" ] || [ -e "$folder/$link" ] || ln -s "usr/$link" "$folder/$link"
done
