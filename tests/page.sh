#!/bin/sh
# page.sh - the report and the live page in a real browser: curves and their values, two runs overlaid, alarms, a
# completion that is a script, no request to elsewhere, a live update. Needs Chromium and Python; pictures go to
# $SHOTS where it is set.
set -eu
BUILD=${BUILD:-build}
command -v chromium > /dev/null 2>&1 || command -v chromium-browser > /dev/null 2>&1 ||
    { echo "page.sh: skipped, there is no Chromium here (apt-get install chromium)"; exit 77; }
command -v python3 > /dev/null 2>&1 || { echo "page.sh: skipped, there is no python3 here"; exit 77; }
exec python3 tests/reference/page.py "$BUILD/rlhf"
