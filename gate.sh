#!/usr/bin/env bash
# Evaluate a set, and compare it with a baseline where there is one; action.yml runs this, and so can
# any other CI. Ends with 0, 1 if a metric got worse than chance explains, or 2 for unusable input.
#
#   SAMPLES=samples/ BASELINE=baseline/ bash gate.sh
#
# Variables: SAMPLES, REFERENCE (mp20-test-bt), BASELINE, CONFIG (a gate.toml), ARGUMENTS (of
# `crysmetrics evaluate`), OUTPUT (a folder). The summary goes to $GITHUB_STEP_SUMMARY, if it is set.
set -uo pipefail

: "${SAMPLES:?names the generated structures}"
output=${OUTPUT:-crysmetrics-results}
summary=${GITHUB_STEP_SUMMARY:-/dev/stdout}
read -ra arguments <<< "${ARGUMENTS:---protocol brief}"

crysmetrics evaluate "$SAMPLES" "${REFERENCE:-mp20-test-bt}" -o "$output" --overwrite \
  "${arguments[@]}" || exit

if [[ -z ${BASELINE:-} || ! -e ${BASELINE:-} ]]; then
  echo "No baseline is there${BASELINE:+ ($BASELINE)}; $output/metrics.json can be the next one." >&2
  { echo "### Generated crystals"; echo; cat "$output/table.md"; } >> "$summary"
  exit 0
fi

config=()
[[ -n ${CONFIG:-} ]] && config=(--config "$CONFIG")
markdown=$(mktemp)
crysmetrics compare "$BASELINE" "$output" ${config[@]+"${config[@]}"} --overwrite --markdown "$markdown" \
  --junit "$output.xml"
status=$?
cat "$markdown" >> "$summary"
rm -f "$markdown"
exit "$status"
