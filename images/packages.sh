#!/bin/sh
# Installs missing packages, with the package manager of this image.
set -eu

missing=
for package in "$@"; do
  if command -v dpkg-query >/dev/null; then
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed && continue
  else
    rpm -q --whatprovides "$package" >/dev/null 2>&1 && continue
    # Names that the RPM distributions give to what Debian calls otherwise.
    case $package in
      squashfs-tools) command -v zypper >/dev/null && package=squashfs ;;
      createrepo-c) package=createrepo_c ;;
      kiwi) package=python3-kiwi ;;
    esac
  fi
  missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
elif command -v zypper >/dev/null; then
  zypper --non-interactive install --no-recommends $missing
  zypper clean --all
elif command -v dnf >/dev/null; then
  dnf install -y --setopt=install_weak_deps=False $missing
  dnf clean all
else
  echo "this base image has none of apt-get, zypper and dnf" >&2
  exit 1
fi
