#!/usr/bin/env bash
# Copies the volumes of a stopped deployment to a folder, or back:  volumes.sh save|restore FOLDER
# `make down` first, and give back the folder of `lucid init` as well: without it nothing opens.
set -euo pipefail
what=$1 folder=$(realpath "$2") version=${LUCID_VERSION:-0.1.0}
image=lucid/cli:$version
if [ -n "$(docker ps -q --filter name='^lucid-')" ]; then
	echo "error: containers of Lucid run, and would write meanwhile. Run \`make down\` first" >&2
	exit 1
fi
mkdir -p "$folder"
# The broker's volume has frames that are not sealed yet, in plaintext.
chmod 700 "$folder"
python() { docker run --rm --network none --user 0 --entrypoint /usr/bin/python3.11 "$@"; }
for volume in blobs mongodb kafka recorder-state; do
	case $what in
	save)
		python -v "lucid-$volume:/from:ro" -v "$folder:/to" -w /from "$image" \
			-m tarfile -c "/to/$volume.tar" . ;;
	restore)
		python -v "lucid-$volume:/to" -v "$folder:/from:ro" "$image" \
			-m tarfile -e "/from/$volume.tar" /to ;;
	*) echo "error: $what is neither save nor restore" >&2; exit 64 ;;
	esac
done
